"""SNOOPI: supercharged one-step diffusion distillation with proper guidance (Nguyen et al., 2024).
https://arxiv.org/abs/2412.02687

Training, PG-SB: SwiftBrush with a guidance that is drawn anew, for *both* the teacher psi and its adapted copy phi:

    kappa ~ U[kappa_min, kappa_max]        eps^k = eps(x_t, t, null) + kappa (eps(x_t, t, y) - eps(x_t, t, null))
    grad L_G = E [w(t) (eps_psi^k - eps_phi^k) dx / dtheta]                              x = f_theta(z, y), one step
    L_phi    = E ||eps_phi(alpha_t sg(x) + sigma_t eps, t, y) - eps||^2                  without guidance

Sampling, NASA: a negative prompt in the cross-attention of a one-step generator, without training; it is
:mod:`limbeck.models.negative_attention`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Update
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.losses.score import follow
from limbeck.methods.diffusion._shared import (
    critic_of,
    denoising,
    produce,
    still,
    uniform_times,
    without_labels,
)  # fmt: skip
from limbeck.models.denoiser import Denoiser, guide
from limbeck.models.path import wide
from limbeck.models.sampling import FewStep

CARD = Card(
    key="snoopi",
    title="SNOOPI: Supercharged One-step Diffusion Distillation with Proper Guidance",
    authors="Viet Nguyen, Anh Nguyen, Trung Dao, Khoi Nguyen, Cuong Pham, Toan Tran, Anh Tran",
    year=2024,
    url="https://arxiv.org/abs/2412.02687",
    family="diffusion",
    summary="Variational score distillation whose guidance is drawn at random, for the teacher and the critic alike.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="probabilities",
    loop="alternating",
    needs=("weights",),
    stationary=("vsd",),
    fidelity="reconstruction",
    notes="The range of the guidance, the weight w(t) = sigma_t^2, a draw a sample rather than a batch and the share "
    "of labels left out are assumed; there is no released code. The gradient is linear in kappa: in expectation it is "
    "the middle scale's, and what the draw adds is spread. The two players want learning rates of their own, the "
    "adapters' the higher. The student begins as the teacher.",
)


class Snoopi(Method):
    """SwiftBrush's loop with random guidance on both sides."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    start: Fraction = 1.0
    """The time of the student's one step: just below 1 for networks that predict noise and are blind at 1."""
    lowest: NonNegative = 2.5
    """kappa_min, in ``u + kappa (c - u)``."""
    highest: NonNegative = 4.5
    """kappa_max; equal to ``lowest`` it is SwiftBrush."""
    rank: Count = 64
    """Rank of the adapters. SwiftBrush: 64."""
    alpha: Positive = 108.0
    """The adapters' scale is ``alpha / rank``. SwiftBrush: 108."""
    unlabelled: Fraction = 0.1
    """Share of labels left out of the critic's training, so that it can be guided."""
    t_min: Fraction = 0.02
    """Earliest time the student's samples are noised to."""
    t_max: Fraction = 0.98
    """Latest time the student's samples are noised to."""

    def __post_init__(self) -> None:
        if self.highest < self.lowest:
            raise InputError("highest", self.highest, f"is below the lowest guidance, {self.lowest}")
        if not self.teacher.classes:
            raise InputError(
                "teacher", "a model without classes", "cannot be guided; this method needs a conditional one"
            )
        freeze(self.teacher)
        self.critic = critic_of(self.teacher, self.student, self.rank, self.alpha)
        self.student.sampler = FewStep((self.start,))

    def players(self) -> dict[str, list[nn.Parameter]]:
        learning = [p for p in self.critic.parameters() if p.requires_grad]
        return {"student": list(self.student.parameters()), "critic": learning}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        x = produce(self.student, torch.randn_like(batch.x), batch.y, self.start)
        kappa = self.lowest + (self.highest - self.lowest) * torch.rand(len(x), device=x.device)
        yield Update({"vsd": self.matching(x, batch.y, kappa)})
        y = without_labels(batch.y, self.unlabelled)
        yield Update({"denoising": denoising(self.critic, x, uniform_times(x, 0.0, 1.0), y).mean()}, "critic")

    def matching(self, x: Tensor, y: Tensor, kappa: Tensor) -> Tensor:
        """Variational score distillation at x, both sides guided by kappa (B,), as a loss."""
        t, path = uniform_times(x, self.t_min, self.t_max), self.teacher.path
        with torch.no_grad(), still(self.critic):
            x_t = path.noised(x, torch.randn_like(x), t)
            real, fake = guide(self.teacher, x_t, t, y, kappa).eps, guide(self.critic, x_t, t, y, kappa).eps
            gap = wide(path.sigma(t).square(), x) * (real - fake)
        return follow(x, gap).mean()
