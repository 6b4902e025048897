"""Samplers: the many steps of a teacher's ordinary differential equation, and the few steps of a student.

A sampler is a small frozen value that a model carries (``model.sampler``), so that a student is always sampled as it
was trained; it is written beside the weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from limbeck.models.denoiser import Denoised
from limbeck.models.path import wide

__all__ = ["FewStep", "Ode", "Sampler", "Solver", "grid", "multistep", "solve"]

Solver = Literal["ddim", "heun", "dpm2m"]


class Sampler(Protocol):
    """From standard normal noise (B, ...) and labels (B,) to samples (B, ...)."""

    @property
    def nfe(self) -> int:
        """How often the network is evaluated for one sample, guidance not counted."""
        ...

    def __call__(
        self, model: nn.Module, noise: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None, /
    ) -> Tensor: ...


def grid(steps: int, start: float = 1.0, end: float = 0.0) -> list[float]:
    """``steps + 1`` equidistant times from ``start`` down to ``end``; on EDM's path these are Karras' steps."""
    return [start + (end - start) * k / steps for k in range(steps + 1)]


def solve(
    model: nn.Module, x: Tensor, times: Sequence[float | Tensor], y: Tensor | None = None, *, solver: Solver = "ddim",
    extra: Tensor | None = None,
) -> list[Tensor]:  # fmt: skip
    """Integrate ``dx/dt`` through the given times: the states, the first of which is ``x``.

    Args:
        model: a :class:`Denoiser`, guided or not. Gradients flow where they are on.
        times: floats, or one a sample (B,), falling or rising. Where a step ends at 0 exactly, the state is ``x0``.
        solver: ``ddim`` (first order); ``heun`` (second order, two calls a step; Karras et al., 2022, algorithm 1,
        in t);
            ``dpm2m``: DPM-Solver++(2M), second order from one call a step (Lu et al., 2022,
            https://arxiv.org/abs/2211.01095, algorithm 2).
    """
    states, before = [x], None
    for t, s in itertools.pairwise(times):
        said: Denoised = model(x, t, y, extra)
        ends = not isinstance(s, Tensor) and s == 0
        if solver == "dpm2m":
            x, before = multistep(said, x, s, before, ends)
        elif solver == "heun" and not ends:
            there = said.at(s)
            gap = s - t
            mean = (said.velocity + model(there, s, y, extra).velocity) / 2
            x = x + (wide(gap, x) if isinstance(gap, Tensor) else gap) * mean
        else:
            x = said.x0 if ends else said.at(s)
        states.append(x)
    return states


def multistep(
    said: Denoised, x: Tensor, s: float | Tensor, before: tuple[Tensor, Tensor] | None, ends: bool
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One step of DPM-Solver++(2M); ``before`` is the last ``x0`` and its log-SNR. The last step is of first order."""
    path, t = said.path, said.t
    s = s if isinstance(s, Tensor) else torch.full_like(t, s)
    here, there = path.log_snr(t), path.log_snr(s)
    data, h = said.x0, there - here
    if before is not None and not ends:
        last, when = before
        half = wide(h / (2 * (here - when)), x)  # 1 / (2 r); zero when the step before was infinite in log-SNR
        data = (1 + half) * said.x0 - half * last
    if ends:
        return data, (said.x0, here)
    kept = wide(path.sigma(s) / path.sigma(t), x)
    return kept * x - wide(path.alpha(s) * torch.expm1(-h), x) * data, (said.x0, here)


@dataclass(frozen=True)
class Ode:
    """The many equidistant steps of a teacher.

    Args:
        steps: how many.
        solver: see :func:`solve`.
        start: the time of the first; less than 1 where a model is blind at 1.
        extra: further numbers the network is told, such as a guidance scale or an id.
    """

    steps: int = 50
    solver: Solver = "ddim"
    start: float = 1.0
    extra: tuple[float, ...] = ()

    @property
    def nfe(self) -> int:
        return 2 * self.steps - 1 if self.solver == "heun" else self.steps

    def __call__(
        self, model: nn.Module, noise: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None, /
    ) -> Tensor:
        x = model.prior(noise, self.start)
        told = x.new_tensor(self.extra).expand(len(x), -1) if self.extra else None
        return solve(model, x, grid(self.steps, self.start), y, solver=self.solver, extra=told)[-1]


@dataclass(frozen=True)
class FewStep:
    """A few jumps to x0 with noise between: one rule for one-step generators, LCM, DMD2, TCD and DDIM.

    From ``t`` to the next time ``s``: deterministically to ``s' = (1 - gamma) s``, then with fresh noise from ``s'`` to
    ``s``. ``gamma`` 1 forgets the old noise (consistency models, DMD2), 0 keeps it (DDIM), between is TCD's strategic
    stochastic sampling (Zheng et al., 2024, https://arxiv.org/abs/2402.19159).

    Args:
        times: falling, from the first; ``(1.0,)`` is one step from pure noise.
        gamma: share of fresh noise, 0 to 1.
        target: whether the network is told where it jumps to, as its first further number.
        extra: the other further numbers it is told, such as a guidance scale.
    """

    times: tuple[float, ...] = (1.0,)
    gamma: float = 1.0
    target: bool = False
    extra: tuple[float, ...] = ()

    @property
    def nfe(self) -> int:
        return len(self.times)

    def __call__(
        self, model: nn.Module, noise: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None, /
    ) -> Tensor:
        return self.resume(model, model.prior(noise, self.times[0]), y, generator)

    def resume(
        self, model: nn.Module, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """From a state (B, ...) at the first time."""
        for t, s in zip(self.times, (*self.times[1:], 0.0)):
            told = (*((s,) if self.target else ()), *self.extra)
            said: Denoised = model(x, t, y, x.new_tensor(told).expand(len(x), -1) if told else None)
            if s == 0:
                return said.x0
            near = torch.full_like(said.t, (1 - self.gamma) * s)
            x = said.x0 if self.gamma == 1 else said.at(near)
            if self.gamma > 0:
                fresh = torch.randn(x.shape, generator=generator).to(x)
                x = said.path.renoised(x, fresh, near, torch.full_like(near, s))
        raise AssertionError("the last time is always 0")
