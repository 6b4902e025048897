"""One-step diffusion distillation through score implicit matching (Luo, Huang, Geng, Kolter & Qi, 2024).
https://arxiv.org/abs/2410.16794

Any distance d between the scores of the noised generator and of the teacher is lowered, although the generator has no
score: by the score-divergence gradient theorem (theorem 3.1) the gradient of E w(t) d(s_fake - s_real) is that of

    L = -E w(t) d'(u_t)^T (s_fake(x_t) - grad log q(x_t | x)),    u_t = s_fake(x_t) - s_real(x_t)

with the fake score network held, and x_t = alpha x + sigma eps followed back to the generator. In denoised samples
and with the pseudo-Huber distance d(u) = sqrt(||u||^2 + c^2) - c, norms over the whole sample,

    L = (y_real - y_fake)^T (y_fake - x) / sqrt(||y_real - y_fake||^2 + c^2)

which weighs itself: no sample pulls harder than another. With the squared distance this is SiD at alpha 1.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, NonNegative, Positive, Update
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.losses.score import fisher
from limbeck.methods.diffusion._shared import critic_of, denoising, karras_times, lognormal_times, produce, still
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.sampling import FewStep

CARD = Card(
    key="sim",
    title="One-Step Diffusion Distillation through Score Implicit Matching",
    authors="Weijian Luo, Zemin Huang, Zhengyang Geng, J. Zico Kolter, Guo-jun Qi",
    year=2024,
    url="https://arxiv.org/abs/2410.16794",
    repo="https://github.com/maple-research-lab/SIM",
    family="diffusion",
    summary="A one-step generator lowers any distance between its score and its teacher's, by default a robust one.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="features",
    loop="alternating",
    needs=("input_gradients",),
    vanishes=("matching",),
    fidelity="reconstruction",
    notes="No training code was released. Assumed: the constant of the distance, the noise levels of the generator's "
    "loss, and weight 1 in denoised samples. Of a batch only the labels and the size are used.",
)


class SIM(Method):
    """The fake score's step, then the generator's, on fresh noise."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    distance: Literal["pseudo_huber", "squared"] = "pseudo_huber"
    """The distance d of the scores. Paper: pseudo-Huber."""
    c: Positive = 0.00054
    """Constant of the pseudo-Huber distance, times the root of the number of elements. Assumed."""
    guidance: NonNegative = 1.0
    """The teacher's classifier-free guidance, off at 1. Paper: on for text to image."""
    start: Positive = 2.5
    """Noise level sigma_init at which the generator reads its noise. Paper: 2.5."""
    t_max: Fraction = 0.8
    """Largest noise level, as a share of Karras' grid from 0.002 to 80. Assumed, from SiD."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.guided = Guided(self.teacher, self.guidance)
        self.critic = critic_of(self.teacher, self.student)
        self.begins = float(self.student.path.time(torch.tensor(self.start)))
        self.student.sampler = FewStep((self.begins,))

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "critic": list(self.critic.parameters())}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        with torch.no_grad():
            x = self.generate(batch)
        t = lognormal_times(self.critic.path, x)
        yield Update({"denoising": denoising(self.critic, x, t, batch.y, target="edm").mean()}, "critic")
        yield Update({"matching": self.matching(self.generate(batch), batch.y).mean()})

    def generate(self, batch: Samples) -> Tensor:
        """The generator's samples from fresh noise, with gradient."""
        return produce(self.student, torch.randn_like(batch.x), batch.y, self.begins)

    def matching(self, x: Tensor, y: Tensor) -> Tensor:
        """The surrogate of the scores' distance at noised x, a sample (B,); the gradient goes through all of it."""
        t = karras_times(self.teacher.path, x, high=self.t_max)
        x_t = self.teacher.path.noised(x, torch.randn_like(x), t)
        with still(self.critic):
            real, fake = self.guided(x_t, t, y).x0, self.critic(x_t, t, y).x0
        found = fisher(x, real, fake)
        if self.distance == "squared":
            return found
        c = self.c * math.sqrt(x[0].numel())
        return found / ((real - fake).flatten(1).square().sum(1) + c * c).sqrt()
