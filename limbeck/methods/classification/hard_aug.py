"""HARD: hard augmentations for robust distillation (Nix, Burg & Sinz, 2023). https://arxiv.org/abs/2305.14890

    x~ = g_phi(x, e),  e ~ N(0, I):  an affine map with parameters mu + sigma e, phi = (mu, sigma)
    L_student(theta) = tau^2 KL(p_T(x~) || p_S(x~)) + tau^2 KL(p_T(x) || p_S(x))
    L_aug(phi) = - tau^2 KL(p_T(x~) || p_S(x~)) + lambda tau^2 KL(p_T(x) || p_T(x~))

The augmentor looks for images on which the student disagrees with the teacher, among those that do not change the
teacher's mind: so the student learns what the teacher is invariant to. It pauses while the student cannot follow.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import KW_ONLY, field
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, NonNegative, Positive, Update
from limbeck.core.modules import eval_mode, freeze, gather
from limbeck.data.batches import Images
from limbeck.losses.divergence import distil_kl
from limbeck.models.augmentor import Augmentor

CARD = Card(
    key="hard_aug",
    title="HARD: Hard Augmentations for Robust Distillation",
    authors="Arne F. Nix, Max F. Burg, Fabian H. Sinz",
    year=2023,
    url="https://arxiv.org/abs/2305.14890",
    family="classification",
    summary="Learns the shifts, turns and stretches on which the student is wrong and the teacher is not, and trains "
    "on them.",
    modality="image",
    teacher="frozen",
    data="unlabelled",
    signal="logits",
    loop="alternating",
    needs=("logits", "input_gradients"),
    vanishes=("kd", "hard"),
    fidelity="reconstruction",
    notes="HARD-Affine; the mixing and auto-encoder variants are left out. Assumed: the form of L_aug, lambda, the "
    "bound on the maps, and the rule by which the augmentor pauses and resumes, here a share of what a uniform guess "
    "would cost. The student learns in every step. A step costs three passes of the teacher and of the student.",
)


class HardAug(Method):
    """A student that matches the teacher's softened probabilities, and an augmentor that makes that hard."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    tau: Positive = 4.0
    """Temperature of all distributions."""
    lam: NonNegative = 1.0
    """lambda, weight of the teacher's own change of mind; with 0 the images become meaningless to both."""
    low: Fraction = 0.3
    """The augmentor learns once the student's loss on its images is below this share of a uniform guess's."""
    high: Fraction = 0.6
    """And pauses when it is above this share."""
    memory: Fraction = 0.9
    """Weight of the past in the running mean of that share."""
    largest: Positive = 0.5
    """Bound on the mean and the standard deviation of angle, log-scale, shear and shift (in halves of the image)."""
    padding: Literal["zeros", "border", "reflection"] = "zeros"
    """What comes in from outside of the image: black, its border, or its mirror image."""

    share: Tensor = field(init=False)
    chasing: Tensor = field(init=False)

    def __post_init__(self) -> None:
        freeze(self.teacher)
        device = next(self.student.parameters()).device
        self.augmentor = Augmentor(self.largest, self.padding).to(device)
        self.register_buffer("share", torch.ones((), device=device))
        self.register_buffer("chasing", torch.zeros((), dtype=torch.bool, device=device))

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {name: list(getattr(self, name).parameters()) for name in ("student", "augmentor")}

    def updates(self, batch: Images, clock: Clock) -> Generator[Update, bool, None]:
        if self.chasing:
            yield Update(self.adversary(batch.x), "augmentor")
            self.augmentor.project()
        with torch.no_grad():
            x = self.augmentor(batch.x)
            t, t_hard = self.teacher(batch.teacher_x), self.teacher(x)
        s, s_hard = self.student(torch.cat([batch.x, x])).chunk(2)  # one batch for its batch normalisation
        kd, hard = distil_kl(s, t, self.tau).mean(), distil_kl(s_hard, t_hard, self.tau).mean()
        yield Update({"kd": kd, "hard": hard}, logs={"share": self.share, "sigma": self.augmentor.sigma.mean()})
        guess = distil_kl(torch.zeros_like(t_hard), t_hard, self.tau).mean()
        self.follow(hard.detach() / guess.clamp_min(1e-6))

    def adversary(self, x: Tensor) -> dict[str, Tensor]:
        """The augmentor's terms on images (B, C, H, W); the student's batch statistics stay out of it."""
        moved = self.augmentor(x)
        with eval_mode(self.student):
            t, s = self.teacher(moved), self.student(moved)
        with torch.no_grad():
            clean = self.teacher(x)
        return {
            "disagreement": -distil_kl(s, t, self.tau).mean(),
            "invariance": self.lam * distil_kl(t, clean, self.tau).mean(),
        }

    def follow(self, share: Tensor) -> None:
        """Let the augmentor learn or pause, by the running mean of the student's share of a uniform guess's loss."""
        self.share.lerp_(gather(share.view(1)).mean(), 1 - self.memory)
        self.chasing.copy_(torch.where(self.chasing, self.share <= self.high, self.share < self.low))
