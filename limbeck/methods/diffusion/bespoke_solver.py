"""Bespoke solvers for generative flow models (Shaul et al., 2023). https://arxiv.org/abs/2310.19075

A path x(t) is followed in another time and another scale, ``x_r = s_r x(t_r)``; the transformed field is

    u_r(x) = (s'_r / s_r) x + t'_r s_r u_{t_r}(x / s_r)

and a plain solver with n uniform steps of r on it is, in x itself, with h = 1 / n,

    RK1   x_{i+1} = ((s_i + h s'_i) / s_{i+1}) x_i + h t'_i (s_i / s_{i+1}) u_{t_i}(x_i)
    RK2   z       = (s_i + h/2 s'_i) x_i + h/2 s_i t'_i u_{t_i}(x_i)                                       (midpoint)
          x_{i+1} = (s_i / s_{i+1}) x_i + (h / s_{i+1}) [(s'/s)_{i+1/2} z + (t' s)_{i+1/2} u_{t_{i+1/2}}(z / s_{i+1/2})]

whatever the numbers t, t', s, s' at the steps (and half steps), which are learnt: the loss bounds the global error
by the local ones from exact states, each times the Lipschitz constants of the steps that follow,

    L = E sum_i M_i ||x(t_i) - step_{i-1}(x(t_{i-1}))||,       M_i = prod_{j >= i} L_j
    x(t_i) = x(sg t_i) + u(x(sg t_i), sg t_i) (t_i - sg t_i)

so that times learn without a solver's gradient. Here r = 0 is noise (t = 1) and r = 1 data (t = 0), hence t' < 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, NonNegative, Positive, Setting
from limbeck.data.samples import Samples
from limbeck.methods.diffusion._shared import trainable
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.sampling import grid, solve

CARD = Card(
    key="bespoke_solver",
    title="Bespoke Solvers for Generative Flow Models",
    authors="Neta Shaul, Juan Perez, Ricky T. Q. Chen, Ali Thabet, Albert Pumarola, Yaron Lipman",
    year=2023,
    url="https://arxiv.org/abs/2310.19075",
    family="diffusion",
    summary="Learns a few dozen numbers of a solver, its times and scales, for one frozen model and number of steps.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="features",
    notes="The exact path is solved by `fine` Heun steps between every two learnt times; the paper uses an adaptive "
    "solver. The numbers hold for one model, number of steps and guidance.",
)


class Bespoke(nn.Module):
    """The learnt solver, as a sampler: 4n - 1 numbers of RK1 or 8n - 1 of RK2, beginning as the plain one.

    Args:
        steps: n.
        order: 1 (Euler) or 2 (midpoint).
        guidance: classifier-free guidance, off at 1.
    """

    def __init__(self, steps: int, order: Literal[1, 2], guidance: float) -> None:
        super().__init__()
        self.steps, self.order, self.guidance, self.nfe = steps, order, guidance, steps * order
        one = torch.tensor(1.0).expm1().log()  # softplus of it is 1
        self.gaps = nn.Parameter(one.expand(self.nfe).clone())  # of the times, before they are made to sum to 1
        self.rates = nn.Parameter(one.expand(self.nfe).clone())  # -dt/dr
        self.log_scale = nn.Parameter(torch.zeros(self.nfe))  # log s at the (half) steps but the first
        self.scale_rate = nn.Parameter(torch.zeros(self.nfe))  # ds/dr

    def numbers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """t and s (nfe + 1,), t' and s' (nfe,), at the steps and, for RK2, the half steps between."""
        gaps = F.softplus(self.gaps)
        t = 1 - F.pad((gaps / gaps.sum()).cumsum(0), (1, 0))
        s = F.pad(self.log_scale, (1, 0)).exp()
        return torch.cat([t[:-1].clamp(min=0), t.new_zeros(1)]), s, -F.softplus(self.rates), self.scale_rate

    def step(self, model: nn.Module, x: Tensor, i: int, y: Tensor | None) -> Tensor:
        """The i-th step from x (B, ...)."""
        t, s, dt, ds = self.numbers()
        h = 1 / self.steps

        def u(x: Tensor, k: int) -> Tensor:
            return model(x, t[k], y).velocity

        if self.order == 1:
            return ((s[i] + h * ds[i]) * x + h * dt[i] * s[i] * u(x, i)) / s[i + 1]
        a, m, b = 2 * i, 2 * i + 1, 2 * i + 2
        z = (s[a] + h / 2 * ds[a]) * x + h / 2 * s[a] * dt[a] * u(x, a)
        return (s[a] * x + h * (ds[m] / s[m] * z + dt[m] * s[m] * u(z / s[m], m))) / s[b]

    def lipschitz(self, rough: float) -> Tensor:
        """(n,) bounds on how much a step spreads two states, where the velocity's own constant is ``rough``."""
        _, s, dt, ds = self.numbers()
        h, dt = 1 / self.steps, dt.abs()
        if self.order == 1:
            return ((s[:-1] + h * ds).abs() + h * dt * s[:-1] * rough) / s[1:]
        a, m, b = slice(0, -1, 2), slice(1, None, 2), slice(2, None, 2)
        inner = (s[a] + h / 2 * ds[::2]).abs() + h / 2 * s[a] * dt[::2] * rough
        return (s[a] + h * (ds[m].abs() / s[m] + dt[m] * rough) * inner) / s[b]

    def forward(
        self, model: nn.Module, noise: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        guided, x = Guided(model, self.guidance), model.prior(noise)
        for i in range(self.steps):
            x = self.step(guided, x, i, y)
        return x


class BespokeSolver(Method):
    """The teacher itself, with a solver that learnt to make its errors small."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    steps: Count = 5
    """Steps n of the solver. Paper: 4 to 10, so 8 to 20 evaluations with RK2."""
    order: Literal[1, 2] = 2
    """1 is Euler's step, 2 the midpoint's, of two evaluations. Paper: both."""
    rough: Positive = 1.0
    """The Lipschitz constant L_tau that the velocity is taken to have. Paper: 1."""
    fine: Count = 8
    """Heun steps between two learnt times that make the exact path."""
    guidance: NonNegative = 1.0
    """Classifier-free guidance, off at 1; it must be the one that is sampled with."""

    def __post_init__(self) -> None:
        self.student.requires_grad_(False)
        self.student.sampler = Bespoke(self.steps, self.order, self.guidance)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        method = cls(trainable(setting.teachers[0]).eval(), setting.teachers[0], **values)
        setting.fit(method)
        return method.student

    def loss(self, batch: Samples, clock: Clock) -> dict[str, Tensor]:
        solver, model = self.student.sampler, Guided(self.teacher, self.guidance)
        y = batch.y if self.teacher.classes else None
        times = solver.numbers()[0][:: self.order]
        with torch.no_grad():
            exact = self.path(model, torch.randn_like(batch.x), times.tolist(), y)
            slopes = [model(x, float(t), y).velocity for x, t in zip(exact[:-1], times[:-1], strict=True)]
        moved = [x + u * (t - t.detach()) for x, u, t in zip(exact[:-1], slopes, times[:-1], strict=True)]
        states = [*moved, exact[-1]]
        spread = solver.lipschitz(self.rough)
        total = batch.x.new_zeros(())
        for i in range(self.steps):
            missed = (states[i + 1] - solver.step(model, states[i], i, y)).flatten(1).square().mean(1)
            total = total + spread[i + 1 :].prod() * missed.clamp(min=1e-12).sqrt().mean()
        return {"local_errors": total}

    def path(self, model: nn.Module, noise: Tensor, times: list[float], y: Tensor | None) -> list[Tensor]:
        """The states at these times, by `fine` Heun steps from each to the next."""
        states = [self.teacher.prior(noise)]
        for t, s in itertools.pairwise(times):
            states.append(solve(model, states[-1], grid(self.fine, t, s), y, solver="heun")[-1])
        return states
