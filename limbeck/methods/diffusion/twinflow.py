"""TwinFlow: realizing one-step generation on large models with self-adversarial flows (Cheng et al., 2025).
https://arxiv.org/abs/2512.05150

One network F(x_t, t, r) has a real side and a twin, the paper's negative times; x_t = t z + (1 - t) x, x_hat = x_t
- t F. Every batch is split in four: e2e (t = 1, r = 0), mul (r just below t), any (r below t), and adv, the
network's own one-step samples, on the twin side. With the target v = z - x, to which the first three add their own
guidance:

    v     <- v + w (F_ema(x_t, t, t, y) - F_ema(x_t, t, t, null))
    F_tgt = F - clamp([(t - r) F - I] / e - v, -1, 1),    I = the way of N steps of F_ema from x_t - e v at t - e to r
    L_any = E [(tan((1 - (t - r)) pi / 2.5) + 1) rho(F, sg F_tgt)]                a finite MeanFlow identity
    L_adv = E rho(F_twin(x_t, t, t), z - x_hat)                                   the twin learns the fakes' velocity
    L_rec = w_r E rho(F, sg(F - clamp(F_twin(x_t', t', t') - F(x_t', t', t'), -1, 1)))    at t = 1, r = 0

where x_t' is x_hat, noised again.
rho is the square, weighed a sample as Barron's loss. No teacher, no discriminator, no further network.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import KW_ONLY
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, NonNegative, Positive, Update
from limbeck.core.modules import Ema, eval_mode
from limbeck.data.samples import Samples
from limbeck.models.conversion import on_path
from limbeck.models.denoiser import Denoiser
from limbeck.models.path import Flow, wide
from limbeck.models.sampling import FewStep

CARD = Card(
    key="twinflow",
    title="TwinFlow: Realizing One-step Generation on Large Models with Self-adversarial Flows",
    authors="Zhenglin Cheng, Peng Sun, Jianguo Li, Tao Lin",
    year=2025,
    url="https://arxiv.org/abs/2512.05150",
    repo="https://github.com/inclusionAI/TwinFlow",
    family="diffusion",
    summary="A flow teaches itself one step: its twin learns what it makes, and their difference says what is wrong.",
    modality="diffusion",
    teacher="none",
    data="labelled",
    signal="none",
    loop="self",
    notes="The student should be a trained flow. The sign of the time is a further number the network is told beside "
    "the target time, so that it begins as it was. Of the released code's variants the frozen initial weights as "
    "teacher and the orders 0 of its target are left out. Its dropout masks shared between calls are eval mode here.",
)
E2E, MUL, ANY, ADV = range(4)


class TwinFlow(Method):
    """Any-step self-distillation on one side of time, the velocity of the own samples on the other."""

    student: Denoiser
    _: KW_ONLY
    times: tuple[float, ...] = (1.0,)
    """The sampler's times; between them the noise is fresh. Paper: one or two steps."""
    guidance: NonNegative = 0.5
    """w, of the guidance by itself, for t below 1; 0 without classes."""
    rectification: NonNegative = 0.5
    """w_r; 0 is any-step self-distillation alone (RCGM)."""
    order: Count = 2
    """N, steps of the average network in the any-step target."""
    step: Positive = 0.01
    """e, of the finite difference."""
    clamp: Positive = 1.0
    """Largest correction of an element."""
    ema: Annotated[float, Interval(ge=0, lt=1)] = 0.99
    """Decay of the average network, reached from 0; 0 is the network itself."""
    c: Positive = 1e-3
    """Of Barron's weight ``(mse / c^2 + 1)^(-1/2) / c``."""
    image_free: bool = False
    """Take the network's own one-step samples for all data."""

    def __post_init__(self) -> None:
        student = self.student if self.student.extras else self.student.told(2)
        self.student = on_path(student, Flow())
        self.student.sampler = FewStep(self.times, extra=(0.0, 1.0))
        self.average = Ema(self.student)
        self.register_buffer("decay", torch.zeros(()))

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        if (yield Update(self.loss(batch, clock))):
            self.average.update(self.student, float(self.decay))
            self.decay += (1 - self.decay) * (self.ema - self.decay) / 2

    def loss(self, batch: Samples, clock: Clock) -> dict[str, Tensor]:
        y, B = batch.y, len(batch.x)
        part = torch.arange(B, device=y.device) * 4 // B
        with torch.no_grad():
            t = torch.where(part == E2E, 1.0, torch.rand(B, device=y.device))
            below = torch.rand(B, device=y.device) * torch.where(part == MUL, 0.05, 1.0)
            r = torch.where(part == E2E, 0.0, torch.where(part == ADV, t, t - below * t))
            rows, x = (part == ADV) | self.image_free, batch.x.clone()
            x[rows] = self.own(torch.randn_like(x[rows]), y[rows])
            z = torch.randn_like(x)
            x_t, side = Flow().noised(x, z, t), torch.where(part == ADV, -1.0, 1.0)
        F = self.velocity(self.student, x_t, t, r, y, side)
        with torch.no_grad():
            v = self.enhanced(z - x, x_t, t, y)
            target = self.any_step(F, v, x_t, t, r, y)
            target[part == ADV] = (z - x)[part == ADV]
        weight = torch.where(part == ADV, 1.0, torch.tan((1 - (t - r)) * math.pi / 2.5) + 1)
        rows = weight * self.distance(F, target)
        terms = {"any_step": rows[part != ADV].sum() / B, "twin": rows[part == ADV].sum() / B}
        if self.rectification > 0:
            end = part == E2E
            wrong = self.wrong(x_t[end] - F[end], y[end])  # t = 1: x_hat = x_t - F
            terms["rectify"] = self.rectification * self.distance(F[end], F[end].detach() - wrong).mean()
        return terms

    def velocity(  # noqa: PLR0917 (who is asked, of which state, between which times, on which side)
        self, model: Ema | Denoiser, x: Tensor, t: Tensor, r: Tensor, y: Tensor | None, side: Tensor | float = 1.0
    ) -> Tensor:
        """F (B, ...), noise-ward; ``side`` is -1 for the twin."""
        side = side * torch.ones_like(t)
        return model(x, t, y, torch.stack([r, side], 1)).velocity

    def own(self, noise: Tensor, y: Tensor) -> Tensor:
        """The network's one-step samples."""
        one = torch.ones(len(noise), device=noise.device)
        return noise - self.velocity(self.student, noise, one, torch.zeros_like(one), y)

    def enhanced(self, v: Tensor, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The target with the average network's own guidance added, where t is below 1."""
        if not self.student.classes or self.guidance == 0:
            return v
        gap = self.velocity(self.average, x_t, t, t, y) - self.velocity(self.average, x_t, t, t, None)
        return v + wide(self.guidance * (t < 1), v) * gap

    def any_step(self, F: Tensor, v: Tensor, x_t: Tensor, t: Tensor, r: Tensor, y: Tensor) -> Tensor:  # noqa: PLR0917
        """F_tgt (B, ...); nearer than a step to r it is the velocity, clamped."""
        near, t_m, x = t < r + self.step, torch.maximum(t - self.step, r), x_t - self.step * v
        way, ahead = torch.zeros_like(x), t_m
        for k in range(self.order):
            after = t_m + (r - t_m) * ((k + 1) / self.order)
            said = self.velocity(self.average, x, ahead, after, y)
            way, x, ahead = way + wide(ahead - after, x) * said, x - wide(ahead - after, x) * said, after
        slope = (wide(t - r, x) * F - way) / self.step
        slope[near] = F[near]
        return F - (slope - v).clamp(-self.clamp, self.clamp)

    @torch.no_grad()
    def wrong(self, x: Tensor, y: Tensor) -> Tensor:
        """How the twin's velocity differs from the real one at noised samples x: along it lies what is more real."""
        t = torch.rand(len(x), device=x.device)
        x_t = Flow().noised(x.detach(), torch.randn_like(x), t)
        with eval_mode(self.student):
            fake = self.velocity(self.student, x_t, t, t, y, -1.0)
            real = self.velocity(self.student, x_t, t, t, y)
        return (fake - real).clamp(-self.clamp, self.clamp)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """rho, (B,)."""
        mse = (a - b.detach()).square().flatten(1).mean(1)
        return mse * (mse.detach() / self.c**2 + 1).rsqrt() / self.c
