"""Distilling ODE solvers of diffusion models into smaller steps (Kim, Tang & Yu, 2023).
https://arxiv.org/abs/2309.16421

Denoised samples of neighbouring times are almost alike, and their difference is the direction in which a solver with
few steps errs. One number a step corrects it:

    x_{t-1} = p_t + lambda_t (D_t - D_{t+1})                      p_t: the plain solver's step, D: the denoised sample
    lambda_t = sum <x*_{t-1} - p_t, D_t - D_{t+1}> / sum ||D_t - D_{t+1}||^2

where x* are the states of the same solver with ``scale`` times as many steps from the same noise. The network is not
touched: on one batch, step after step, a least-squares problem of one unknown is solved and its correction applied
before the next. The first step has no history: with D the noise its direction is eps_t - x_t, with D the data it is
left as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Count, Method, NonNegative, Setting
from limbeck.methods.diffusion._shared import trainable
from limbeck.models.denoiser import Denoised, Denoiser, Guided
from limbeck.models.sampling import grid, multistep, solve

CARD = Card(
    key="d_ode_solvers",
    title="Distilling ODE Solvers of Diffusion Models into Smaller Steps",
    authors="Sanghwan Kim, Hao Tang, Fisher Yu",
    year=2023,
    url="https://arxiv.org/abs/2309.16421",
    repo="https://github.com/kim-sanghwan/D-ODE-Solvers",
    family="diffusion",
    summary="One number a step, a least-squares fit on one batch, corrects a solver with few steps; the net is kept.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="features",
    loop="training_free",
    notes="The fine grid refines the coarse one, so that their states meet; the released code's do not on Karras' "
    "grid. The numbers hold for one model, solver, number of steps and guidance.",
)


class CorrectedOde(nn.Module):
    """A solver with a fitted number a step, as a sampler.

    Args:
        steps: how many.
        solver: whose plain step is corrected.
        of: what D is.
        guidance: classifier-free guidance, off at 1.
    """

    def __init__(self, steps: int, solver: Literal["ddim", "dpm2m"], of: Literal["x0", "eps"], guidance: float) -> None:
        super().__init__()
        self.solver, self.of, self.guidance, self.steps, self.nfe = solver, of, guidance, steps, steps
        self.register_buffer("lambdas", torch.zeros(steps))

    def forward(
        self, model: nn.Module, noise: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None,
        wanted: list[Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """Samples; with the ``wanted`` states of a finer run, the numbers are fitted to them on the way."""
        guided, times = Guided(model, self.guidance), grid(self.nfe)
        x, before, last = model.prior(noise), None, None
        for k, (t, s) in enumerate(itertools.pairwise(times)):
            said: Denoised = guided(x, t, y)
            if self.solver == "dpm2m":
                plain, before = multistep(said, x, s, before, s == 0)
            else:
                plain = said.x0 if s == 0 else said.at(s)
            direction = self.direction(said, x, last)
            if wanted is not None and direction is not None:
                missing, d = (wanted[k + 1] - plain).double(), direction.double()
                self.lambdas[k] = (missing * d).sum() / d.square().sum().clamp(min=1e-20)
            x = plain if direction is None else plain + self.lambdas[k] * direction
            last = getattr(said, self.of)
        return x

    def direction(self, said: Denoised, x: Tensor, last: Tensor | None) -> Tensor | None:
        """``D_t - D_{t+1}``; the first time ``eps_t - x_t`` or nothing."""
        if last is not None:
            return getattr(said, self.of) - last
        return said.eps - x if self.of == "eps" else None


class DODESolvers(Method):
    """The teacher itself, with a solver that was distilled from the same solver's smaller steps."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    steps: Count = 5
    """Steps of the sampler that is made. Paper: 5 to 50."""
    scale: Count = 10
    """How many times as many steps the teacher's run takes. Paper: 10 (3 to 20)."""
    solver: Literal["ddim", "dpm2m"] = "ddim"
    """The solver that is corrected. Paper: DDIM, iPNDM, DPM-Solver, DEIS and EDM's."""
    of: Literal["x0", "eps"] = "x0"
    """What D is: the data or the noise that the network predicts; the paper's two kinds of samplers."""
    batch: Count = 100
    """Noises that the numbers are fitted on. Paper: the first batch of a run, about 100."""
    guidance: NonNegative = 1.0
    """Classifier-free guidance of both runs, off at 1; it must be the one that is sampled with."""

    def __post_init__(self) -> None:
        self.student.sampler = CorrectedOde(self.steps, self.solver, self.of, self.guidance)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        method = cls(trainable(setting.teachers[0]).eval(), setting.teachers[0], **values)
        y = torch.arange(method.batch) % len(method.teacher.classes) if method.teacher.classes else None
        method.solve(method.teacher.noise(method.batch), y)
        return method.student

    @torch.no_grad()
    def solve(self, noise: Tensor, y: Tensor | None = None) -> None:
        """Fit the numbers on these noises (B, ...) and labels (B,)."""
        guided = Guided(self.teacher, self.guidance)
        y = y if y is None else y.to(noise.device)
        fine = solve(guided, self.teacher.prior(noise), grid(self.steps * self.scale), y, solver=self.solver)
        self.student.sampler(self.student, noise, y, None, fine[:: self.scale])
