"""Diffusion models are innate one-step generators: GDD and GDD-I (Zheng & Yang, 2024).
https://arxiv.org/abs/2405.20750

A generator that begins with a diffusion model's weights is trained as a GAN; after the beginning there is no teacher:

    L_G = sum_h softplus(-D_h(P_h(G(sigma_T z, T))))
    L_D = sum_h softplus(D_h(P_h(fake))) + softplus(-D_h(P_h(real)))
          + gamma / 2 ||grad_x sum_h D_h(P_h(real))||^2             every 16 steps, times 16

P_h are the levels of a frozen network, D_h small trained heads. GDD-I also freezes most of the generator's
convolutions: what makes one step possible is there already. The student is an average of the generator over training.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Setting, Update
from limbeck.core.modules import Ema, freeze
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.losses.adversarial import nonsaturating, r1_penalty
from limbeck.methods.diffusion._shared import trainable
from limbeck.models.denoiser import Denoiser
from limbeck.models.gan import FeatureDiscriminator
from limbeck.models.random_features import RandomFeatures
from limbeck.models.sampling import FewStep, solve

CARD = Card(
    key="gdd",
    title="Diffusion Models Are Innate One-Step Generators",
    authors="Bowen Zheng, Tianming Yang",
    year=2024,
    url="https://arxiv.org/abs/2405.20750",
    repo="https://github.com/Zyriix/GDD",
    family="diffusion",
    summary="A diffusion model's weights are the beginning of a GAN's generator; the teacher is not asked again.",
    modality="diffusion",
    teacher="frozen",
    data="labelled",
    signal="weights",
    loop="alternating",
    needs=("weights",),
    notes="The paper's eyes are networks trained on ImageNet; the default here is a random one of the samples' shape; "
    "from Python any network that answers with a list of features serves. Labels reach the heads by projection. The "
    "student is cut out of the teacher; a run's own student is ignored. No augmentation and no instance losses.",
)


class Heads(nn.Module):
    """A logit a level, (levels, B): high for real; a label's share is its embedding's product with the mean feature."""

    def __init__(self, shapes: list[tuple[int, ...]], classes: int) -> None:
        super().__init__()
        self.plain = nn.ModuleList(FeatureDiscriminator(shape) for shape in shapes)
        channels = [shape[0] if len(shape) == 3 else shape[-1] for shape in shapes]
        self.labels = nn.ModuleList(nn.Embedding(classes + 1, c) for c in channels) if classes else None

    def forward(self, features: list[Tensor], y: Tensor) -> Tensor:
        logits = torch.stack([head(f) for head, f in zip(self.plain, features, strict=True)])
        if self.labels is None:
            return logits
        told = []
        for embedding, f in zip(self.labels, features, strict=True):
            assert isinstance(embedding, nn.Embedding)
            row = torch.where(y < 0, embedding.num_embeddings - 1, y)
            mean = f.flatten(2).mean(2) if f.ndim == 4 else f
            told.append((embedding(row) * mean).sum(1) / mean.shape[1])
        return logits + torch.stack(told)


class GDD(Method):
    """A GAN whose generator was a diffusion model."""

    student: Denoiser
    eyes: nn.Module | None = None
    _: KW_ONLY
    times: tuple[float, ...] = (1.0,)
    """Times of the generator's steps, falling, without noise between. Paper: one step; a second at sigma 0.8."""
    frozen: tuple[str, ...] = ()
    """Parts of the names of parameters that stay as they are. Paper: none (GDD); conv and proj of EDM's networks
    (GDD-I)."""
    gamma: NonNegative = 1e-4
    """Weight of the gradient penalty on real samples. Paper: 1e-4."""
    every: Count = 16
    """Steps from one gradient penalty to the next, which counts as many times. Paper: 16."""
    half_life: Count = 500_000
    """Samples after which a generator's share in the average is halved. Paper: 0.5 million."""
    ramp: Fraction = 0.05
    """The half-life is at most this share of the samples seen so far; 0 for no average. Paper: 0.05."""

    def __post_init__(self) -> None:
        self.student.sampler = FewStep(self.times, gamma=0.0)
        for part in self.frozen:
            found = [p for name, p in self.student.named_parameters() if part in name]
            if not found:
                raise InputError("frozen", part, "is in no parameter's name of the generator")
            for p in found:
                p.requires_grad_(False)
        self.eyes = freeze(RandomFeatures(self.student.shape) if self.eyes is None else self.eyes)
        with torch.no_grad():
            shapes = [tuple(f.shape[1:]) for f in self.eyes(torch.zeros(2, *self.student.shape))]
        self.heads = Heads(shapes, len(self.student.classes))
        self.average = Ema(self.student)

    def players(self) -> dict[str, list[nn.Parameter]]:
        learning = [p for p in self.student.parameters() if p.requires_grad]
        return {"student": learning, "discriminator": list(self.heads.parameters())}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        fake = self.generate(batch)
        yield Update({"gan": nonsaturating(self.logits(fake, batch.y), real=True).sum(0).mean()})
        self.average.update(self.student, self.decay(clock, len(batch.x)))
        told = nonsaturating(self.logits(fake.detach(), batch.y), real=False)
        told = told + nonsaturating(self.logits(batch.x, batch.y), real=True)
        terms = {"discriminator": told.sum(0).mean()}
        if self.gamma and clock.step % self.every == 0:
            x = batch.x.detach().requires_grad_()
            terms["r1"] = self.every * self.gamma / 2 * r1_penalty(self.logits(x, batch.y), x).mean()
        yield Update(terms, "discriminator")

    def generate(self, batch: Samples) -> Tensor:
        """All of the generator's steps from noise, with gradient."""
        x = self.student.prior(torch.randn_like(batch.x), self.times[0])
        return solve(self.student, x, (*self.times, 0.0), batch.y)[-1]

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """(levels, B)."""
        assert self.eyes is not None
        return self.heads(self.eyes(x), y)

    def decay(self, clock: Clock, batch: int) -> float:
        """What the average keeps at a step: half of it after ``half_life`` samples, or a share of those seen."""
        span = min(float(self.half_life), self.ramp * clock.step * batch)
        return 0.5 ** (batch / span) if span else 0.0

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """The average of a generator that began as the teacher."""
        if len(setting.teachers) != 1:
            raise InputError("teacher", len(setting.teachers), "teachers were given; this method takes exactly one")
        teacher = setting.teachers[0]
        assert isinstance(teacher, Denoiser)
        method = cls(trainable(teacher), **values)
        setting.fit(method)
        return trainable(method.average.average)  # type: ignore[arg-type]
