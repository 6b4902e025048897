"""Decoupled DMD: CFG augmentation as the spear, distribution matching as the shield (Liu et al., 2025).
https://arxiv.org/abs/2511.22677

Distribution matching with a guided teacher and an unguided critic is the sum of two directions, noised apart here:

    Delta_DM = mu_real(x_tau, c) - mu_fake(x_tau, c)                        tau  over the whole range
    Delta_CA = (w - 1) (mu_real(x_tau', c) - mu_real(x_tau', null))         tau' in (0, t): noise the step has yet to
                                                                            remove; the paper's time runs the other way
    L_G      = 1/2 mean ||x - sg(x + Delta_DM + Delta_CA)||^2,              x = G(x_t, t), its own step's clean sample
    L_fake   = ||mu_fake(x_tau, c) - sg(x)||^2

The guidance direction turns many steps into few, and knows no critic; alone it drives the generator off. The matching
term holds it. With one draw for both, the sum is ``u + w (c - u) - mu_fake``: DMD2 with guidance w.
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
from limbeck.errors import InputError
from limbeck.losses.score import distance, follow
from limbeck.methods.diffusion._shared import critic_of, denoising, simulate, still, uniform_times
from limbeck.models.denoiser import Denoiser
from limbeck.models.sampling import FewStep

CARD = Card(
    key="decoupled_dmd",
    title="Decoupled DMD: CFG Augmentation as the Spear, Distribution Matching as the Shield",
    authors="Dongyang Liu, Peng Gao, David Liu, Ruoyi Du, Zhen Li, Qilong Wu, Xin Jin, Sihan Cao, Shifeng Zhang, "
    "Hongsheng Li, Steven Hoi",
    year=2025,
    url="https://arxiv.org/abs/2511.22677",
    repo="https://github.com/Tongyi-MAI/Z-Image",
    family="diffusion",
    summary="Guidance and distribution matching become two terms, each with its own noise levels.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="probabilities",
    loop="alternating",
    needs=("probabilities",),
    stationary=("matching",),
    notes="Each direction is divided by its own mean distance to the conditional prediction, as in DMD; the paper's "
    "equation has no divisor: normalise=False. The mean-and-variance regulariser of the paper's diagnosis and its GAN "
    "variant are left out. A generator step costs four passes of teacher and critic; a step of a run is one of the "
    "critic's, and every `ratio` of them one of the generator's.",
)


class DecoupledDMD(Method):
    """Guidance and matching as two terms on the generator's own samples."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    times: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    """Times of the generator's steps, falling. Paper: four in the ablations, eight for Z-Image-Turbo."""
    guidance: NonNegative = 4.0
    """The teacher's guidance w, in ``u + w (c - u)``; at 1 nothing is augmented. Paper: about 4 to 8."""
    matching: Weight = 1.0
    """Weight of the matching term; at 0 the guidance is alone, and no critic is trained."""
    augmentation: Weight = 1.0
    """Weight of the guidance term."""
    augmented_at: Literal["below", "full", "shared"] = "below"
    """Where the guidance is read: below the step's own noise level (the paper's best), anywhere, or in the very sample
    that is matched, as DMD does."""
    normalise: bool = True
    """Whether each direction is divided by its own distance ``mean |x - mu_real(x_tau, c)|``."""
    ratio: Count = 5
    """Steps of the critic for one of the generator. Paper: DMD2's, 5."""
    t_min: Fraction = 0.02
    """Earliest time the generator's samples are noised to."""
    t_max: Fraction = 0.98
    """Latest time the generator's samples are noised to."""

    def __post_init__(self) -> None:
        if self.guidance != 1 and not self.teacher.classes:
            raise InputError("guidance", self.guidance, "needs a conditional teacher; this one has no classes")
        freeze(self.teacher)
        self.critic = critic_of(self.teacher, self.student)
        self.student.sampler = FewStep(self.times)

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "critic": list(self.critic.parameters())}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        matched = value(self.matching, clock)
        if clock.step % self.ratio == 0:
            x, t = self.generate(batch)
            shield, spear = self.directions(x, batch.y, t)
            terms = {"augmentation": value(self.augmentation, clock) * follow(x, -spear).mean()}
            if matched > 0:
                terms["matching"] = matched * follow(x, -shield).mean()
            yield Update(terms)
        if matched > 0:
            with torch.no_grad():
                x, _ = self.generate(batch)
            yield Update({"denoising": denoising(self.critic, x, uniform_times(x, 0.0, 1.0), batch.y).mean()}, "critic")

    def generate(self, batch: Samples) -> tuple[Tensor, float]:
        """The clean sample of a random one of the steps, and that step's time; the gradient through it alone."""
        step = int(torch.randint(len(self.times), ()))
        x_t = simulate(self.student, torch.randn_like(batch.x), batch.y, self.times, step)
        return self.student(x_t, self.times[step], batch.y).x0, self.times[step]

    @torch.no_grad()
    def directions(self, x: Tensor, y: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """``Delta_DM`` and ``Delta_CA`` (B, ...), for clean samples of the step at time t."""
        with still(self.critic):
            x_tau, tau = self.noised(x, self.t_max)
            real, fake = self.teacher(x_tau, tau, y).x0, self.critic(x_tau, tau, y).x0
        shield = (real - fake) / (distance(x, real) if self.normalise else 1)
        if self.augmented_at != "shared":
            x_tau, tau = self.noised(x, self.t_max if self.augmented_at == "full" else min(t, self.t_max))
            real = self.teacher(x_tau, tau, y).x0
        spear = (self.guidance - 1) * (real - self.teacher(x_tau, tau).x0)
        return shield, spear / (distance(x, real) if self.normalise else 1)

    def noised(self, x: Tensor, latest: float) -> tuple[Tensor, Tensor]:
        """Samples at random times (B,) up to the latest."""
        tau = uniform_times(x, min(self.t_min, latest), latest)
        return self.teacher.path.noised(x, torch.randn_like(x), tau), tau
