"""BOOT: data-free distillation of denoising diffusion models with bootstrapping (Gu et al., 2023).
https://arxiv.org/abs/2306.05544

The student y_theta(eps, t) is given the first noise and a time, and answers the *signal* y_t of the teacher's
deterministic trajectory x_t = alpha_t y_t + sigma_t eps that begins in eps. Along it

    dy_t / dt = -lambda'_t (f(x_t, t) - y_t),    lambda_t = -log(alpha_t / sigma_t),  f the teacher's x0

so that the student at s = t - delta can learn from itself at t and one call of the teacher, without any data:

    y^_s = sg[y_theta(eps, t) + delta lambda'_t (f - y_theta(eps, t))]         Euler
    y^_s = sg[(1 - r) f + r y_theta(eps, t)],  r = (alpha_t / sigma_t) / (alpha_s / sigma_s)   exact: a DDIM step
    L = w / delta^2 ||y_theta(eps, s) - y^_s||^2 + beta ||y_theta(eps, t_max) - f(sigma_t_max eps, t_max)||^2

One step of sampling is y_theta(eps, t_min). On steep paths delta lambda' exceeds one and Euler overshoots, so the
exact form is the default.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, NonNegative, Positive
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.methods.diffusion._shared import uniform_times
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.path import mixture, wide

CARD = Card(
    key="boot",
    title="BOOT: Data-free Distillation of Denoising Diffusion Models with Bootstrapping",
    authors="Jiatao Gu, Shuangfei Zhai, Yizhe Zhang, Lingjie Liu, Josh Susskind",
    year=2023,
    url="https://arxiv.org/abs/2306.05544",
    family="diffusion",
    summary="From noise alone, the student learns the teacher's trajectory step by step out of its own predictions.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="features",
    loop="self",
    fidelity="reconstruction",
    notes="delta, beta and the weight are assumed. Of a batch only its size and labels are read. The student should "
    "begin as the teacher's copy and predict x0, v or velocity: what a network says of pure noise told the time t is "
    "read as said of time 1, where noise as a prediction leaves the signal open.",
)


def signal(model: Any, noise: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
    """``y_theta(eps, t)`` (B, ...): the clean sample in the network's answer to pure noise when told the time t (B,).

    The answer is taken as one about time 1, where a copy of the teacher starts with the teacher's own ``x0``.
    """
    said = model(noise, t, y)
    a, b = mixture(model.path, t, model.prediction, model.data)
    return model.path.solve(noise, wide(a, noise) * said.x0 + wide(b, noise) * said.eps, torch.ones_like(t),
                            model.prediction, model.data)[0]  # fmt: skip


@dataclass(frozen=True)
class Signal:
    """The one step of a student of signals.

    Args:
        t: the time it is told.
    """

    t: float

    @property
    def nfe(self) -> int:
        return 1

    def __call__(
        self, model: Any, noise: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None, /
    ) -> Tensor:
        return signal(model, noise, noise.new_full((len(noise),), self.t), y)


class BOOT(Method):
    """Bootstrapping along the signal's trajectory, anchored at its beginning."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    delta: Positive = 0.04
    """Length of a step in time; assumed."""
    step: Literal["exact", "euler"] = "exact"
    """How the signal takes it; the paper has both."""
    weight: Positive = 1.0
    """Weight ``w / delta^2`` of the bootstrap; assumed."""
    boundary: NonNegative = 1.0
    """Weight beta of the term that holds the student to the teacher's first sight of the noise; assumed."""
    guidance: NonNegative = 1.0
    """The teacher's classifier-free guidance, off at 1."""
    t_min: Fraction = 0.02
    """The time at which the student is sampled."""
    t_max: Fraction = 1.0
    """Where the trajectory begins; less than 1 for Euler on a path that ends without any data."""

    def __post_init__(self) -> None:
        if self.student.prediction in ("eps", "edm"):
            raise InputError("prediction", self.student.prediction, "is singular here; the student must say x0 or v")
        if not self.t_min + self.delta < self.t_max:
            raise InputError("delta", self.delta, f"must fit between t_min {self.t_min} and t_max {self.t_max}")
        if self.step == "euler" and self.teacher.path.alpha(torch.tensor(self.t_max)) == 0:
            raise InputError("t_max", self.t_max, "has no data left, where Euler has no slope; take a little less")
        freeze(self.teacher)
        self.guided = Guided(self.teacher, self.guidance)
        self.student.sampler = Signal(self.t_min)

    def loss(self, batch: Samples, clock: Clock) -> dict[str, Tensor]:
        noise, y = torch.randn_like(batch.x), batch.y
        t = uniform_times(noise, self.t_min + self.delta, self.t_max)
        last = torch.full_like(t, self.t_max)
        with torch.no_grad():
            goal = self.next(signal(self.student, noise, t, y), noise, t, y)
            seen = self.guided(self.teacher.prior(noise, last), last, y).x0
        apart = (signal(self.student, noise, t - self.delta, y) - goal).square().flatten(1).mean(1)
        begun = (signal(self.student, noise, last, y) - seen).square().flatten(1).mean(1)
        return {"bootstrap": self.weight * apart.mean(), "boundary": self.boundary * begun.mean()}

    def next(self, y_t: Tensor, noise: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """The signal (B, ...) at t - delta, one call of the teacher after that at t (B,)."""
        path, s = self.teacher.path, t - self.delta
        f = self.guided(path.noised(y_t, noise, t), t, y).x0
        if self.step == "exact":
            return torch.lerp(f, y_t, wide((path.log_snr(t) - path.log_snr(s)).exp(), f))
        slope, rise = path.rates(t)
        return y_t + wide(self.delta * (rise / path.sigma(t) - slope / path.alpha(t)), f) * (f - y_t)
