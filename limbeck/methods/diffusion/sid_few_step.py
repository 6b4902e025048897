"""Few-step diffusion via score identity distillation (Zhou, Gu & Wang, 2025). https://arxiv.org/abs/2505.12674

One network makes K samples in turn, each from the last one noised afresh to a lower level, from D_0 = 0:

    D_{i+1} = G(alpha_{t_i} D_i + sigma_{t_i} eps_i, t_i, c),    t_i = t_init (1 - i / K)

It is enough that the mixture of all steps' samples matches the data, so a random step k is trained at a time, the
gradient through that step alone, and the fake score network is not told k:

    L_G   = (y_real - y_fake)^T ((y_real - D_k) - alpha (y_real - y_fake)) / sg(mean |D_k - y_real|)
            + lambda softplus(-D(x_t))
    L_psi = snr / (snr + 1) ||y_fake - sg(D_k)||^2 + lambda_d / 2 (softplus(-D(real_t)) + softplus(D(fake_t)))

    y_real = u + kappa_4 (c - u),    y_fake = u + kappa_2 (c - u),    y_fake = u + kappa_1 (c - u) where it is trained

Long-short guidance (https://arxiv.org/abs/2406.01561) has all kappas alike. Zero-CFG guides nothing and does not tell
the fake score the label; Anti-CFG turns its guidance round, kappa_2 < 0. D is the mean over the channels of the fake
score's own inner features (SiDA, https://arxiv.org/abs/2410.14919), and needs real samples.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Update
from limbeck.core.modules import Taps, freeze
from limbeck.data.samples import Samples
from limbeck.losses.adversarial import nonsaturating
from limbeck.losses.score import distance, fisher
from limbeck.methods.diffusion._shared import (
    critic_of,
    denoising,
    simulate,
    still,
    uniform_times,
    without_labels,
)  # fmt: skip
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.sampling import FewStep

CARD = Card(
    key="sid_few_step",
    title="Few-Step Diffusion via Score identity Distillation",
    authors="Mingyuan Zhou, Yi Gu, Zhendong Wang",
    year=2025,
    url="https://arxiv.org/abs/2505.12674",
    repo="https://github.com/mingyuanzhou/SiD-LSG",
    family="diffusion",
    summary="Score identity distillation of a generator of several steps, whose outputs together match the teacher.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="features",
    loop="alternating",
    needs=("input_gradients",),
    vanishes=("fisher",),
    fidelity="reconstruction",
    notes="Assumed: the guidance constants, the share of labels left out, and that the fake score's weight is on its "
    "error in clean samples. Of a batch only the labels and the size are used unless `gan` is on. Long-short "
    "guidance: the three scales alike, 1.5 to 4.5. Zero-CFG: `fake_labels` off. Anti-CFG: `fake_guidance` below 0.",
)


class SiDFewStep(Method):
    """The fake score's step, then the generator's, each on a random one of the generator's steps."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    steps: Count = 4
    """Steps K of the generator. Paper: 1, 2, 4."""
    alpha: float = 1.0
    """How far the projected divergence is corrected for the fake score's error. Paper: 1."""
    start: Positive = 2.5
    """Noise level of the first step. Paper: step 625 of 1000, which is about 2.5 for Stable Diffusion."""
    guidance: NonNegative = 1.0
    """kappa_4, the teacher's classifier-free guidance, off at 1."""
    fake_guidance: float = 1.0
    """kappa_2, the fake score's where it is read; off at 1, below 0 for Anti-CFG (about -0.5, assumed)."""
    fake_guidance_in_training: NonNegative = 1.0
    """kappa_1, the fake score's where it is trained; off at 1."""
    fake_labels: bool = True
    """Whether the fake score is told the labels; not for Zero-CFG."""
    unlabelled: Fraction = 0.1
    """Share of the labels that the fake score's training leaves out, so that it can be guided. Assumed."""
    gan: NonNegative = 0.0
    """Weight lambda of the generator's adversarial term; 0 for training without data. SiDA: 1e-4."""
    gan_critic: NonNegative = 1.0
    """Weight lambda_d of the discriminator's loss beside the fake score's. SiDA: 1."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.critic = critic_of(self.teacher, self.student)
        begins = float(self.student.path.time(torch.tensor(self.start)))
        self.times = tuple(begins * (1 - i / self.steps) for i in range(self.steps))
        self.student.sampler = FewStep(self.times)
        self.guided = Guided(self.teacher, self.guidance)
        for scale in (self.fake_guidance, self.fake_guidance_in_training):
            Guided(self.critic, scale)  # an unconditional model is refused here, not in the first step

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "critic": list(self.critic.parameters())}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        told = batch.y if self.fake_labels else torch.full_like(batch.y, -1)
        with torch.no_grad():
            x = self.generate(batch)
        terms = {"denoising": self.denoising(x, without_labels(told, self.unlabelled))}
        if self.gan > 0:
            fake, real = (self.logits(*self.noised(made), told) for made in (x, batch.x))
            false, true = nonsaturating(fake, real=False).mean(), nonsaturating(real, real=True).mean()
            terms["discriminator"] = self.gan_critic / 2 * (false + true)
        yield Update(terms, "critic")
        x = self.generate(batch)
        x_t, t = self.noised(x)
        terms = {"fisher": self.fisher(x, x_t, t, batch.y, told)}
        if self.gan > 0:
            with still(self.critic):
                terms["gan"] = self.gan * nonsaturating(self.logits(x_t, t, told), real=True).mean()
        yield Update(terms)

    def generate(self, batch: Samples) -> Tensor:
        """D_k at a random step k, the gradient through that step alone."""
        k = int(torch.randint(self.steps, ()))
        x_t = simulate(self.student, torch.randn_like(batch.x), batch.y, self.times, k)
        return self.student(x_t, self.times[k], batch.y).x0

    def noised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x at a random time, and that time."""
        t = uniform_times(x)
        return self.teacher.path.noised(x, torch.randn_like(x), t), t

    def denoising(self, x: Tensor, y: Tensor) -> Tensor:
        """The fake score's loss: its error in clean samples by ``snr / (snr + 1)``."""
        t, path = uniform_times(x), self.critic.path
        share = path.alpha(t).square() / (path.alpha(t).square() + path.sigma(t).square())
        guided = Guided(self.critic, self.fake_guidance_in_training)
        return (share * denoising(guided, x, t, y, target="x0")).mean()

    def fisher(self, x: Tensor, x_t: Tensor, t: Tensor, y: Tensor, told: Tensor) -> Tensor:
        """The projected Fisher divergence over its normaliser; the fake score is told what it may be told."""
        with still(self.critic):
            real, fake = self.guided(x_t, t, y).x0, Guided(self.critic, self.fake_guidance)(x_t, t, told).x0
        return (fisher(x, real, fake, self.alpha) / distance(x, real, 1e-5).flatten()).mean()

    def logits(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """(B, positions): the mean of the fake score's inner features over their channels, within +-10."""
        _, (feature,) = Taps(self.critic.middle)(self.critic, x_t, t, y)
        return feature.mean(1 if feature.ndim == 4 else -1).reshape(len(x_t), -1).clamp(-10, 10)
