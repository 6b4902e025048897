"""SANA-Sprint: one-step diffusion with continuous-time consistency distillation (Chen et al., 2025).
https://arxiv.org/abs/2503.09641

The flow teacher is read on the circle, x_t = cos t x0 + sin t z with z ~ N(0, s_d^2), without loss; there sCM holds:

    dx/dt = s_d F_T(x_t / s_d, t)                                                                the teacher's, guided
    g     = -cos^2 t (s_d F - dx/dt) - r cos t sin t (x_t + s_d dF/dt),    dF/dt along the teacher's way;    r: 0 -> 1
    L_sCM = E [exp(-u(t)) / (s_d tan t) ||F_theta - sg(F) - g / (||g|| + c)||^2 + u(t)]

and beside it a discriminator of noised samples, heads on the frozen teacher's features (LADD):

    L_G   = L_sCM - lambda E D(cos t_D x + sin t_D z),    x = cos t x_t - sin t s_d F_theta
    L_D   = 1/2 (E relu(1 - D(real)) + E relu(1 + D(fake)))

x is made at t = pi / 2 with probability p.
g is the tangent of the consistency function turned into F's units; at r = 0 it only regresses on the teacher.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, NonNegative, Positive, Update, Weight, value
from limbeck.core.modules import freeze
from limbeck.core.schedule import Warmup
from limbeck.data.samples import Samples
from limbeck.losses.adversarial import hinge
from limbeck.methods.diffusion._shared import discriminator_of, logits_of
from limbeck.models.conversion import on_path
from limbeck.models.denoiser import Denoiser, guide
from limbeck.models.derivative import Derivative, derivative
from limbeck.models.path import Trig, wide
from limbeck.models.sampling import FewStep
from limbeck.models.tiny_denoiser import WAVES, waves

CARD = Card(
    key="sana_sprint",
    title="SANA-Sprint: One-Step Diffusion with Continuous-Time Consistency Distillation",
    authors="Junsong Chen, Shuchen Xue, Yuyang Zhao, Jincheng Yu, Sayak Paul, Junyu Chen, Han Cai, Song Han, Enze Xie",
    year=2025,
    url="https://arxiv.org/abs/2503.09641",
    repo="https://github.com/NVlabs/Sana",
    family="diffusion",
    summary="Consistency in continuous time beside a discriminator on the teacher's features: one to four steps.",
    modality="diffusion",
    teacher="frozen",
    data="labelled",
    signal="features",
    loop="alternating",
    needs=("input_gradients",),
    notes="Models here have unit noise, so that their states are the paper's over s_d. The teacher's fine-tuning with "
    "a dense time embedding and normalised queries and keys is an architecture's and left out: times are in [0, 1] "
    "already. So are mismatched captions. One head reads one layer; the paper's read several.",
)


class SanaSprint(Method):
    """sCM with the exact rotation, a normalised and warmed-up tangent, and a latent discriminator."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    times: tuple[float, ...] = (1.0,)
    """The sampler's times, as shares of pi / 2. Paper: one step, or (1, 0.7) for angles of pi / 2 and 1.1."""
    guidance: tuple[float, ...] = (1.0,)
    """Scales of the teacher's guidance, drawn anew for every sample and told to the student. Paper: 4, 4.5, 5."""
    consistency: NonNegative = 1.0
    """Weight of L_sCM; 0 leaves the discriminator alone (LADD)."""
    adversarial: NonNegative = 0.5
    """lambda; 0 is sCM alone."""
    tangent: Weight = Warmup(0.2)
    """r. Paper: rises evenly over the first 4000 of some 20000 steps."""
    c: Positive = 0.1
    """Added to the tangent's norm."""
    data: Positive = 0.5
    """s_d: enters the draw of times and, with c, the tangent."""
    mean: float = 0.2
    """Of log(s_d tan t). Released configuration."""
    std: Positive = 1.6
    """Of log(s_d tan t). Released configuration."""
    last: Fraction = 0.5
    """p: how often the discriminator's samples are made from pure noise, t = pi / 2."""
    critic_mean: float = -0.6
    """Of log(s_d tan t_D)."""
    critic_std: Positive = 1.0
    """Of log(s_d tan t_D)."""
    derivative: Derivative = "jvp"
    """How dF/dt is taken: exactly, or by finite differences."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.turned = on_path(self.teacher, Trig(), "v")
        told = self.guidance != (1.0,)
        student = self.student.told(1) if told and not self.student.extras else self.student
        self.student = on_path(student, Trig(), "v")
        self.head = discriminator_of(self.turned)
        self.log_variance = nn.Sequential(nn.Linear(1 + 2 * WAVES, 32), nn.SiLU(), nn.Linear(32, 1))
        nn.init.zeros_(self.log_variance[2].weight)
        nn.init.zeros_(self.log_variance[2].bias)
        usual = sum(self.guidance) / len(self.guidance)
        self.student.sampler = FewStep(self.times, extra=(usual,) if told else ())

    def players(self) -> dict[str, list[nn.Parameter]]:
        student = [*self.student.parameters(), *self.log_variance.parameters()]
        return {"student": student, "discriminator": list(self.head.parameters())}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        x0, y = batch.x, batch.y
        scale = x0.new_tensor(self.guidance)[torch.randint(len(self.guidance), (len(x0),))]
        terms: dict[str, Tensor] = {}
        if self.consistency > 0:
            r, t = value(self.tangent, clock), self.draw(x0, self.mean, self.std)
            x_t = Trig().noised(x0, torch.randn_like(x0), t)
            terms["scm"] = self.consistency * self.scm(x_t, t, y, scale, r)
        if self.adversarial > 0:
            terms["gan"] = -self.adversarial * self.logits(self.produce(batch, scale), y).mean()
        yield Update(terms)
        if self.adversarial > 0:
            with torch.no_grad():
                fake = self.produce(batch, scale)
            told = hinge(self.logits(fake, y), real=False) + hinge(self.logits(x0, y), real=True)
            yield Update({"hinge": told.mean() / 2}, "discriminator")

    def draw(self, x: Tensor, mean: float, std: float) -> Tensor:
        """Times (B,), shares of pi / 2, whose ``s_d tan t`` is log-normal."""
        level = (mean + std * torch.randn(len(x), device=x.device)).exp() / self.data
        return Trig().time(level)

    def scm(self, x_t: Tensor, t: Tensor, y: Tensor, scale: Tensor, r: float) -> Tensor:
        """L_sCM at states (B, ...) and times (B,)."""
        angle = t * math.pi / 2
        g = self.rotated(x_t, t, y, scale, r)
        norm = g.flatten(1).norm(dim=1)
        F = self.student.predicted(x_t, t, y, self.told(scale))  # v, on this path
        off = (F - (F.detach() + g / wide(norm + self.c, g))).square().flatten(1).mean(1)
        u = self.log_variance(waves(t[:, None].float()))[:, 0]
        return (off * torch.exp(-u) / (self.data * angle.tan()) + u).mean()

    @torch.no_grad()
    def rotated(self, x_t: Tensor, t: Tensor, y: Tensor, scale: Tensor, r: float) -> Tensor:
        """g (B, ...) before its normalisation."""
        angle, told = t * math.pi / 2, self.told(scale)
        cos, sin = wide(angle.cos(), x_t), wide(angle.sin(), x_t)
        teacher = self.turned(x_t, t, y) if told is None else guide(self.turned, x_t, t, y, scale)
        F, slope = derivative(  # slope is cos t sin t dF/dt: the factor inside the direction keeps it bounded
            lambda x, a: self.student.predicted(x, a * 2 / math.pi, y, told),
            (x_t, angle), (cos * sin * teacher.v, angle.cos() * angle.sin()), self.derivative,
        )  # fmt: skip
        return -self.data * (cos.square() * (F - teacher.v) + r * (cos * sin * x_t + slope))

    def told(self, scale: Tensor) -> Tensor | None:
        """What the student is told (B, 1): the scale of guidance, where there is one."""
        return None if self.guidance == (1.0,) else scale[:, None]

    def produce(self, batch: Samples, scale: Tensor) -> Tensor:
        """The student's clean samples, from pure noise with probability p, from noised data otherwise."""
        t = self.draw(batch.x, self.mean, self.std)
        t = torch.where(torch.rand_like(t) < self.last, 1.0, t)
        x_t = Trig().noised(batch.x, torch.randn_like(batch.x), t)
        return self.student(x_t, t, batch.y, self.told(scale)).x0

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """What the discriminator says of samples, noised to its own times; the teacher below it is frozen."""
        t = self.draw(x, self.critic_mean, self.critic_std)
        return logits_of(self.head, self.turned, Trig().noised(x, torch.randn_like(x), t), t, y)
