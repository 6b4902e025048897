"""Improved distribution matching distillation for fast image synthesis (Yin et al., 2024).
https://arxiv.org/abs/2405.14867

The generator x = G(z), or one of its few steps, is noised to x_t; a frozen teacher and a critic, which learns the
generator's own distribution, say where they see its clean sample:

    g    = (mu_fake(x_t, t) - mu_real(x_t, t)) / mean |x - mu_real(x_t, t)|
    L_DM = 1/2 mean ||x - sg(x - g)||^2                                      gradient of the reverse KL divergence
    L_G  = L_DM + lambda_g softplus(-D(x_t'))
    L_C  = ||mu_fake(x_t, t) - sg(x)||^2_w + lambda_d (softplus(D(fake_t')) + softplus(-D(real_t')))

Only the teacher is guided. D is a head on the critic's inner features, and sees noised samples. The critic takes
five steps to the generator's one (the two time-scale rule). The inputs of later steps come from the generator itself
(backward simulation).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Update, Weight, value
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.losses.adversarial import nonsaturating
from limbeck.losses.score import follow
from limbeck.methods.diffusion._shared import (
    critic_of,
    denoising,
    discriminator_of,
    noised_logits,
    score_gap,
    simulate,
    uniform_times,
)  # fmt: skip
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.sampling import FewStep

CARD = Card(
    key="dmd2",
    title="Improved Distribution Matching Distillation for Fast Image Synthesis",
    authors="Tianwei Yin, Michael Gharbi, Taesung Park, Richard Zhang, Eli Shechtman, Fredo Durand, William T. Freeman",
    year=2024,
    url="https://arxiv.org/abs/2405.14867",
    repo="https://github.com/tianweiy/DMD2",
    family="diffusion",
    summary="A one- or few-step generator follows the difference between a teacher's and a critic's scores, and a GAN.",
    modality="diffusion",
    teacher="frozen",
    data="labelled",
    signal="features",
    loop="alternating",
    needs=("input_gradients",),
    stationary=("matching",),
    notes="The critic's loss is in eps, as for Stable Diffusion; the ImageNet runs use EDM's weights. One step of a "
    "run is one step of the critic, and every `ratio` of them one of the generator.",
)


class DMD2(Method):
    """Distribution matching with a critic that is trained more often, and a discriminator on its features."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    times: tuple[float, ...] = (1.0,)
    """Times of the generator's steps, falling. Paper: one step, or 0.999, 0.749, 0.499, 0.249 for SDXL."""
    ratio: Count = 5
    """Steps of the critic for one of the generator. Paper: 5; 10 for SD 1.5."""
    guidance: NonNegative = 1.0
    """The teacher's classifier-free guidance, off at 1. Paper: 8 for SDXL, 1.75 for SD 1.5, off for ImageNet."""
    gan: Weight = 3e-3
    """Weight lambda_g of the generator's adversarial term; 0 leaves the discriminator out. Paper: 1e-3 to 5e-3."""
    gan_critic: NonNegative = 1e-2
    """Weight lambda_d of the discriminator's loss beside the critic's. Paper: 1e-2."""
    t_min: Fraction = 0.02
    """Earliest time the generator's samples are noised to."""
    t_max: Fraction = 0.98
    """Latest time the generator's samples are noised to."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.guided = Guided(self.teacher, self.guidance)
        self.critic = critic_of(self.teacher, self.student)
        self.head = discriminator_of(self.critic)
        self.student.sampler = FewStep(self.times)

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {
            "student": list(self.student.parameters()),
            "critic": [*self.critic.parameters(), *self.head.parameters()],
        }

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        if clock.step % self.ratio == 0:
            x = self.generate(batch)
            terms = {"matching": self.matching(x, batch.y)}
            if (weight := value(self.gan, clock)) > 0:
                terms["gan"] = weight * nonsaturating(self.logits(x, batch.y), real=True).mean()
            yield Update(terms)
        with torch.no_grad():
            x = self.generate(batch)
        denoised = denoising(self.critic, x, uniform_times(x, 0.0, 1.0), batch.y).mean()
        fake, real = self.logits(x, batch.y), self.logits(batch.x, batch.y)
        told = nonsaturating(fake, real=False).mean() + nonsaturating(real, real=True).mean()
        yield Update({"denoising": denoised, "discriminator": self.gan_critic * told}, "critic")

    def generate(self, batch: Samples) -> Tensor:
        """The generator's clean sample at a random one of its steps, the gradient through that step alone."""
        step = int(torch.randint(len(self.times), ()))
        x_t = simulate(self.student, torch.randn_like(batch.x), batch.y, self.times, step)
        return self.student(x_t, self.times[step], batch.y).x0

    def matching(self, x: Tensor, y: Tensor) -> Tensor:
        """The gradient of the reverse KL divergence at x, as a loss."""
        return follow(x, score_gap(x, y, self.guided, self.critic, self.t_min, self.t_max)).mean()

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """What the discriminator says of samples noised to a random time."""
        return noised_logits(self.head, self.critic, x, y)
