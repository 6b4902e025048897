"""Simple and fast distillation of diffusion models (Zhou, Chen, Wang & Chen, 2024). https://arxiv.org/abs/2409.19681

A student of N Euler steps follows its teacher's states at their ends; the teacher takes M more points in each, once
a batch:

    x_0 = X_0 = sigma_1 eps,    X_1 .. X_N = the teacher's states on the student's grid, of (M + 1) N steps of a solver
    x_{k+1} = Euler(x_k, t_k -> t_{k+1}; theta),    L_k = mean |x_{k+1} - X_{k+1}|

with a step of the optimiser for every k. x_{k+1} goes on without gradient: the student is trained along its own
trajectory, whose errors it mends. With several numbers of steps, one is drawn for every batch and told to the student
(SFD-v).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, NonNegative, Update
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.sampling import FewStep, Solver, grid, solve

CARD = Card(
    key="sfd",
    title="Simple and Fast Distillation of Diffusion Models",
    authors="Zhenyu Zhou, Defang Chen, Can Wang, Chun Chen",
    year=2024,
    url="https://arxiv.org/abs/2409.19681",
    repo="https://github.com/zju-pi/diff-sampler",
    family="diffusion",
    summary="A few Euler steps follow the teacher's trajectory from noise, each corrected where the student really is.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="features",
    loop="on_policy",
    notes="Of the training set only labels and shapes are read. The grid is even in the model's time: on EDM's path "
    "these are Karras' steps, whose smallest noise the paper raises to 0.006. The teacher's solver is of second "
    "order, not of third. The analytic first step is left out. A second stage, to one step, is this method again with "
    "its own student as teacher and solver='ddim'; its LPIPS is left out. Guided models are trained unguided, then "
    "guided.",
)


class SFD(Method):
    """L1 to the teacher's states along the student's own trajectory, one update for every step of it."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    steps: tuple[int, ...] = (4,)
    """N, the student's steps; several numbers make one student for all of them. Paper: 2 to 5; SFD-v: all of those."""
    finer: Count = 4
    """M + 1, the teacher's steps for one of the student's. Paper: 4, and 3 for the fewest steps."""
    solver: Solver = "dpm2m"
    """The teacher's. Paper: DPM-Solver++ in several steps."""
    distance: Literal["l1", "l2"] = "l1"
    """How far apart states are."""
    guidance: NonNegative = 1.0
    """The teacher's classifier-free guidance while training. Paper: off, 1."""

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 1:
            raise InputError("steps", self.steps, "must be one or more numbers of steps, each at least 1")
        freeze(self.teacher)
        self.guided = Guided(self.teacher, self.guidance)
        if len(self.steps) > 1 and not self.student.extras:
            self.student = self.student.told(1)
        N = self.steps[-1]
        self.student.sampler = FewStep(tuple(grid(N)[:-1]), gamma=0.0, extra=self.told(N))

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        N = self.steps[int(torch.randint(len(self.steps), ()))]
        times, x = grid(N), self.student.prior(torch.randn_like(batch.x))
        states = self.states(x, batch.y, N)
        extra = x.new_tensor(self.told(N)).expand(len(x), -1) if self.told(N) else None
        for k in range(N):
            x = solve(self.student, x.detach(), times[k : k + 2], batch.y, extra=extra)[-1]
            apart = x - states[k + 1]
            yield Update({f"step {k + 1}": apart.abs().mean() if self.distance == "l1" else apart.square().mean()})

    @torch.no_grad()
    def states(self, x: Tensor, y: Tensor, N: int) -> list[Tensor]:
        """The teacher's N + 1 states (B, ...) on the student's grid."""
        return solve(self.guided, x, grid(N * self.finer), y, solver=self.solver)[:: self.finer]

    def told(self, N: int) -> tuple[float, ...]:
        """What a student of several numbers of steps is told."""
        return (1 / N,) if len(self.steps) > 1 else ()
