"""Target-driven distillation (Wang et al., 2024). https://arxiv.org/abs/2409.01347

A consistency model is only asked to jump to times that a sampler of few steps will visit. On a grid of 250 times, with
t' the one after t,

    M  = the times of the equidistant samplers of n_min to n_max steps, and 0, without the first
    m* = max {m in M: m <= t'},    m ~ {m in M: m* - window <= m <= m*},    s = (1 - eta U(0, 1)) m
    x_s(theta) = alpha_s x0(x_t) + sigma_s eps(x_t)
    L = pseudo-Huber(x_s(theta), sg x_s(theta; from the teacher's x_t'))

The teacher takes its one DDIM step with a fixed guidance, c + w (c - u); a fifth of the *student's* labels are left
out, so that the student keeps an unconditional branch and can still be guided later.
"""

from __future__ import annotations

from dataclasses import KW_ONLY

import torch
from torch import Tensor

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.losses.score import pseudo_huber
from limbeck.methods.diffusion._jumps import consistency, toward
from limbeck.methods.diffusion._shared import without_labels
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.sampling import FewStep

CARD = Card(
    key="tdd",
    title="Target-Driven Distillation: Consistency Distillation with Target Timestep Selection and Decoupled Guidance",
    authors="Cunzheng Wang, Ziyuan Guo, Yuxuan Duan, Huaxia Li, Nemo Chen, Xu Tang, Yao Hu",
    year=2024,
    url="https://arxiv.org/abs/2409.01347",
    repo="https://github.com/RedAIGC/Target-Driven-Distillation",
    family="diffusion",
    summary="A consistency model learns to jump to the times that few-step samplers visit, and to no others.",
    modality="diffusion",
    teacher="frozen",
    data="labelled",
    signal="features",
    loop="self",
    notes="As in the code there is no moving average: the student is its own target. A student whose network is told "
    "a number is told s; the published one is not. Left out: the optional latent discriminator, and clipping x0 when "
    "sampling with strong guidance. With n_min = n_max = 1 the target is always 0: a latent consistency model.",
)


def visited(n_min: int, n_max: int, grid: int) -> tuple[int, ...]:
    """M, rising: the grid times that equidistant samplers of n_min to n_max steps visit after their first."""
    times = {round(grid * k / n) for n in range(n_min, n_max + 1) for k in range(1, n + 1)}
    return 0, *sorted(times)[:-1]


class TDD(Method):
    """Consistency at the times a sampler will visit."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    n_min: Count = 4
    """Fewest steps that the student is prepared for."""
    n_max: Count = 8
    """Most steps that the student is prepared for."""
    grid: Count = 250
    """Equidistant times of the teacher's solver."""
    window: Fraction = 0.26
    """How far below the next visited time the target may be. Code: 260 of 1000."""
    eta: Fraction = 0.3
    """How far the target may fall short of a visited time, as a share of it."""
    guidance: NonNegative = 3.5
    """The teacher's guidance w in c + w (c - u), off at 0."""
    unlabelled: Fraction = 0.2
    """Share of the student's labels left out."""
    huber: Positive = 1e-3
    """c of the pseudo-Huber loss."""
    times: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    """Times at which the student is sampled, falling."""
    gamma: Fraction = 0.2
    """Share of fresh noise between two steps of sampling."""

    def __post_init__(self) -> None:
        if not self.n_min <= self.n_max <= self.grid:
            raise InputError("n_max", self.n_max, f"must be from n_min {self.n_min} to the grid's {self.grid}")
        freeze(self.teacher)
        self.guided = Guided(self.teacher, self.guidance, "from_conditional")
        self.visited = visited(self.n_min, self.n_max, self.grid)
        self.student.sampler = FewStep(self.times, self.gamma, target=self.student.extras > 0)

    def loss(self, batch: Samples, clock: Clock) -> dict[str, Tensor]:
        n = torch.randint(1, self.grid + 1, (len(batch.x),), device=batch.x.device)
        t, near, s = n / self.grid, (n - 1) / self.grid, self.targets(n - 1)
        x_t = self.teacher.path.noised(batch.x, torch.randn_like(batch.x), t)
        with torch.no_grad():
            x_near = self.guided(x_t, t, batch.y).at(near)
        y = without_labels(batch.y, self.unlabelled)
        jumped, goal = consistency(
            self.student, self.student, x_t, x_near, t, near, s, y, toward(self.student, s)
        )  # fmt: skip
        return {"consistency": pseudo_huber(jumped, goal, self.huber).mean()}

    def targets(self, near: Tensor) -> Tensor:
        """Times s (B,) in [0, t'] for the grid times t' (B,) int64."""
        visited = near.new_tensor(self.visited)
        best = visited[torch.searchsorted(visited, near, right=True) - 1, None]
        allowed = (visited <= best) & (visited >= best - self.window * self.grid)
        m = visited[torch.multinomial(allowed.float(), 1).squeeze(1)]
        return (1 - self.eta * torch.rand(len(near), device=near.device)) * m / self.grid
