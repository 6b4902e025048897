"""MLCM: multistep consistency distillation of latent diffusion model (Xie, Liao, Deng, Chen & Lu, 2024).
https://arxiv.org/abs/2406.05768

No data: the states to train on are those of the guided teacher's own sampling, from pure noise. Two neighbours of such
a trajectory, x_t and x_t' = Psi(x_t, t -> t'), should be brought to the same lower edge b of the segment they are in:

    f(x_t, t -> b) = alpha_b / alpha_t (x_t - sigma_t eps_theta) + sigma_b eps_theta
    L = d(f_theta(x_t, t -> b), sg f_theta-(x_t', t' -> b)),    the state itself where t' = b

First within many segments (multistep consistency); then across them, with fewer and finally one, on the same states.
Sampled by deterministic steps between chosen times. A reward of clean samples may be added: - R(x0, y).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Update
from limbeck.core.modules import Ema, freeze
from limbeck.data.samples import Samples
from limbeck.losses.score import pseudo_huber
from limbeck.methods.diffusion._jumps import below, consistency, edges, stage, toward
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.sampling import FewStep, Solver, grid, solve

CARD = Card(
    key="mlcm",
    title="MLCM: Multistep Consistency Distillation of Latent Diffusion Model",
    authors="Qingsong Xie, Zhenyi Liao, Zhijie Deng, Chen Chen, Haonan Lu",
    year=2024,
    url="https://arxiv.org/abs/2406.05768",
    repo="https://github.com/OPPO-Mente-Lab/TLCM",
    family="diffusion",
    summary="On states of the teacher's own sampling, consistency within segments, then across them; no data.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="features",
    loop="self",
    fidelity="reconstruction",
    notes="The released code samples and does not train: the segments, the trajectory's steps, the guidance, the "
    "average's decay and the distance are assumed, and the training states are taken from the trajectory itself, not "
    "noised from its end. Later versions, called TLCM, add adversarial and distribution matching terms, which are "
    "methods of their own here. Of a batch only its size and labels are read. A step costs the teacher `trajectory` "
    "calls; `states` of each trajectory are trained on.",
)


class MLCM(Method):
    """Consistency between neighbouring states of the teacher's own trajectories, in ever fewer segments."""

    student: Denoiser
    teacher: Denoiser
    reward: nn.Module | None = None
    _: KW_ONLY
    segments: tuple[int, ...] = (8, 4, 2, 1)
    """Numbers of segments, each for an equal part of the run; the average begins anew with each. Assumed."""
    trajectory: Count = 32
    """Deterministic steps of the teacher from noise to sample; assumed (25 to 50)."""
    solver: Solver = "ddim"
    """Psi, the teacher's steps; assumed. Of second order, ``dpm2m`` needs some third as many for the same samples."""
    states: Count = 4
    """Random states of each trajectory that are trained on."""
    guidance: NonNegative = 7.5
    """The teacher's guidance, u + w (c - u), off at 1; assumed."""
    decay: Fraction = 0.95
    """Decay of the averaged student that makes the targets; assumed."""
    huber: Positive = 1e-3
    """c of the pseudo-Huber distance; large values make it squared."""
    preference: NonNegative = 1.0
    """Weight of the reward, where one is given."""
    times: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    """Times of the student's deterministic steps, falling. Paper: two to eight."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        if self.reward is not None:
            freeze(self.reward)
        self.guided, self.average = Guided(self.teacher, self.guidance), Ema(self.student, self.decay)
        self.student.sampler = FewStep(self.times, 0.0, target=self.student.extras > 0)

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters())}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        count, begins = stage(clock, self.segments)
        if begins:
            self.average.update(self.student, 0.0)
        x_t, x_near, n, y = self.neighbours(batch)
        low = below(n, edges(count, self.trajectory).to(n.device))
        t, near, b = n / self.trajectory, (n - 1) / self.trajectory, low / self.trajectory
        told = toward(self.student, b)
        jumped, goal = consistency(self.student, self.average, x_t, x_near, t, near, b, y, told)
        terms = {"consistency": pseudo_huber(jumped, goal, self.huber).mean()}
        if self.reward is not None:
            terms["reward"] = -self.preference * self.reward(self.student(x_t, t, y, told).x0, y).mean()
        if (yield Update(terms)):
            self.average.update(self.student)

    @torch.no_grad()
    def neighbours(self, batch: Samples) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States x_t and x_t' (B states, ...) of trajectories from fresh noise, the steps n of t (of t' n - 1), labels.

        Every trajectory is in ``states`` rows, at times drawn apart.
        """
        x = self.teacher.prior(torch.randn_like(batch.x))
        times = grid(self.trajectory)
        states = torch.stack(solve(self.guided, x, times, batch.y, solver=self.solver))  # from noise on
        row = torch.arange(len(x), device=x.device).repeat(self.states)
        n = torch.randint(1, self.trajectory + 1, row.shape, device=x.device)
        return states[self.trajectory - n, row], states[self.trajectory - n + 1, row], n, batch.y[row]
