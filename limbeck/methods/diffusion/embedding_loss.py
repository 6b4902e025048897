"""Embedding loss: a supplement to one-step distillation from random networks' features (Ying et al., 2026).
https://arxiv.org/abs/2604.22379

    L = L_host + lambda E_psi MMD^2(psi(x_real), psi(G(z)))

psi is a network that was never trained, drawn anew every step; nothing is learnt, nothing is adversarial. With a linear
kernel MMD^2 is ``||mean psi(x) - mean psi(G(z))||^2``, as in dataset condensation. The host here is DMD's matching with
a critic:

    L_host: gradient E (mu_fake(x_t, t) - mu_real(x_t, t)) / mean |x - mu_real| dx / dtheta
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Update, Weight, value
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.losses.kernel import gaussian, linear, mmd2
from limbeck.losses.score import follow
from limbeck.methods.diffusion._shared import critic_of, denoising, produce, score_gap, uniform_times
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.random_features import RandomFeatures
from limbeck.models.sampling import FewStep

CARD = Card(
    key="embedding_loss",
    title="Efficient Diffusion Distillation via Embedding Loss",
    authors="Jincheng Ying, Yitao Chen, Li Wenlin, Minghui Xu, Yinhao Xiao",
    year=2026,
    url="https://arxiv.org/abs/2604.22379",
    family="diffusion",
    summary="Beside distribution matching, samples and data agree in the features of networks that were never trained.",
    modality="diffusion",
    teacher="frozen",
    data="labelled",
    signal="probabilities",
    loop="alternating",
    needs=("probabilities",),
    stationary=("matching",),
    fidelity="reconstruction",
    notes="Only summaries were at hand: the networks, the kernel, the weight and how often a network is drawn are "
    "assumed, and nothing is augmented. Samples are made for the labels of the batch, so that the two sets agree in "
    "their classes. A step of a run is one of the critic's, and every `ratio` of them one of the generator's.",
)


class EmbeddingLoss(Method):
    """Matching with a critic, and a maximum mean discrepancy in random features."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    embedding: Weight = 1.0
    """Weight lambda of the embedding loss; 0 is the host alone."""
    host: NonNegative = 1.0
    """Weight of the host's loss; 0 is the embedding loss alone."""
    kernel: Literal["linear", "gaussian"] = "linear"
    """Of the discrepancy; ``gaussian`` is a mean over widths, of features scaled to a mean square of one."""
    width: Count = 64
    """Width of the random networks."""
    ratio: Count = 5
    """Steps of the critic for one of the generator."""
    guidance: NonNegative = 1.0
    """The teacher's classifier-free guidance, off at 1."""
    t_min: Fraction = 0.02
    """Earliest time the generator's samples are noised to."""
    t_max: Fraction = 0.98
    """Latest time the generator's samples are noised to."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.critic = critic_of(self.teacher, self.student)
        self.psi = RandomFeatures(self.student.shape, self.width)  # not frozen for good: it is drawn anew
        self.student.sampler = FewStep()

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "critic": list(self.critic.parameters())}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        if clock.step % self.ratio == 0:
            x, terms = produce(self.student, torch.randn_like(batch.x), batch.y), dict[str, Tensor]()
            if self.host:
                terms["matching"] = self.host * self.matching(x, batch.y)
            if (weight := value(self.embedding, clock)) > 0:
                self.psi.redraw()
                terms["embedding"] = weight * self.apart(batch.x, x)
            yield Update(terms)
        if self.host:
            with torch.no_grad():
                x = produce(self.student, torch.randn_like(batch.x), batch.y)
            yield Update({"denoising": denoising(self.critic, x, uniform_times(x, 0.0, 1.0), batch.y).mean()}, "critic")

    def matching(self, x: Tensor, y: Tensor) -> Tensor:
        """DMD's gradient at x, as a loss."""
        real = Guided(self.teacher, self.guidance)
        return follow(x, score_gap(x, y, real, self.critic, self.t_min, self.t_max)).mean()

    def apart(self, real: Tensor, fake: Tensor) -> Tensor:
        """``MMD^2`` in the last features of the network of the moment; the gradient reaches ``fake`` alone."""
        with torch.no_grad():
            a = self.psi(real)[-1].flatten(1)
        b = self.psi(fake)[-1].flatten(1)
        if self.kernel == "linear":
            return mmd2(linear(a, a), linear(b, b), linear(a, b), unbiased=False)
        scale = (a.square().mean() * a.shape[1]).sqrt()
        a, b = a / scale, b / scale
        return mmd2(gaussian(a, a), gaussian(b, b), gaussian(a, b), unbiased=False)
