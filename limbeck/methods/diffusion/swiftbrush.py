"""SwiftBrush: one-step text-to-image diffusion by variational score distillation (Nguyen & Tran, 2023).
https://arxiv.org/abs/2312.05239

    x        = (sigma_T z - sigma_T eps_theta(sigma_T z, T, y)) / alpha_T          z ~ N(0, I): the student's x0
    grad L_G = E [w(t) (eps_psi(x_t, t, y) - eps_phi(x_t, t, y)) dx / dtheta]      w(t) = sigma_t^2
    L_phi    = E ||eps_phi(alpha_t sg(x) + sigma_t eps, t, y) - eps||^2

The teacher psi is frozen; phi is the teacher with low-rank adapters, which learn what the student makes now. Both take
one step in turn. No data: the loss of text-to-3D (https://arxiv.org/abs/2305.16213), with a generator for the scene.
Were eps_phi the injected noise, it would be score distillation sampling (https://arxiv.org/abs/2209.14988).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Update
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.losses.score import follow
from limbeck.methods.diffusion._shared import (
    critic_of,
    denoising,
    produce,
    still,
    uniform_times,
    without_labels,
)  # fmt: skip
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.path import wide
from limbeck.models.sampling import FewStep

CARD = Card(
    key="swiftbrush",
    title="SwiftBrush: One-Step Text-to-Image Diffusion Model with Variational Score Distillation",
    authors="Thuan Hoang Nguyen, Anh Tran",
    year=2023,
    url="https://arxiv.org/abs/2312.05239",
    repo="https://github.com/VinAIResearch/SwiftBrush",
    family="diffusion",
    summary="A one-step generator follows the gap between a teacher and the same teacher with adapters; no images.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="probabilities",
    loop="alternating",
    needs=("weights",),
    stationary=("vsd",),
    notes="w(t) and what is guided are the released code's, the paper's equation leaves both open. It also weighs the "
    "adapters' loss by alpha_t^2, and leaves labels out a batch at a time. It trains the adapters at a thousand times "
    "the student's learning rate: give the two players their own optimisers. A teacher without weights has a whole "
    "network as critic. The student begins as the teacher.",
)


class SwiftBrush(Method):
    """Variational score distillation of a one-step generator, with a low-rank critic."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    start: Fraction = 1.0
    """The time T of the student's one step: just below 1 for networks that predict noise and are blind at 1."""
    guidance: NonNegative = 4.5
    """Classifier-free guidance, off at 1. Paper: 4.5."""
    guided: Literal["both", "teacher"] = "both"
    """Whose prediction is guided: both, as released, or the teacher's alone, as in text-to-3D."""
    rank: Count = 64
    """Rank of the adapters. Paper: 64."""
    alpha: Positive = 108.0
    """The adapters' scale is ``alpha / rank``. Paper: 108."""
    unlabelled: Fraction = 0.1
    """Share of labels left out of the critic's training, so that it can be guided. Released code: 0.1."""
    t_min: Fraction = 0.02
    """Earliest time the student's samples are noised to. Paper: 0.02."""
    t_max: Fraction = 0.98
    """Latest time the student's samples are noised to. Paper: 0.98."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.critic = critic_of(self.teacher, self.student, self.rank, self.alpha)
        self.student.sampler = FewStep((self.start,))

    def players(self) -> dict[str, list[nn.Parameter]]:
        learning = [p for p in self.critic.parameters() if p.requires_grad]
        return {"student": list(self.student.parameters()), "critic": learning}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        x = produce(self.student, torch.randn_like(batch.x), batch.y, self.start)
        yield Update({"vsd": self.matching(x, batch.y)})
        y = without_labels(batch.y, self.unlabelled)
        yield Update({"denoising": denoising(self.critic, x, uniform_times(x, 0.0, 1.0), y).mean()}, "critic")

    def matching(self, x: Tensor, y: Tensor) -> Tensor:
        """Variational score distillation at x, as a loss."""
        t, path = uniform_times(x, self.t_min, self.t_max), self.teacher.path
        with torch.no_grad(), still(self.critic):
            x_t = path.noised(x, torch.randn_like(x), t)
            real = Guided(self.teacher, self.guidance)(x_t, t, y).eps
            fake = Guided(self.critic, self.guidance if self.guided == "both" else 1.0)(x_t, t, y).eps
            gap = wide(path.sigma(t).square(), x) * (real - fake)
        return follow(x, gap).mean()
