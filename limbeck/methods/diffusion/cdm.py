"""CDM: continuous-time distribution matching for few-step diffusion distillation (Liu et al., 2026).
https://arxiv.org/abs/2605.06376

Every batch the student runs, without gradient, through a schedule of random length, N ~ U{1..28} steps at random times
(1, then sorted U[0.25, 0.95]), and its states x_t, clean samples and directions are kept. At one random place of it:

    L_CA  = ||x0 - sg(x0 + w (mu(c) - mu(null)) / n)||^2    read at s ~ U(0, t)        x0 = student(x_t, t)
    L_DM  = ||x0 - sg(x0 + (mu_real - mu_fake) / n)||^2     read at s ~ U(0, 1)
    L_CDM = L_DM of the student at x_u = x_t + (u - t) v_t, u ~ U(0, 1): *off* the path, along the kept direction
    L_fake = ||v_fake(x_s, s) - (eps - x0)||^2              x0 kept, at a random place of the run

with ``n = max(mean |mu(c) - x0|, 0.1)`` a sample. After every step of the critic its weights are also drawn a little
towards the student's. Two critic steps to one of the student; the student is sampled without noise between steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator
from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Update
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.losses.score import distance, follow
from limbeck.methods.diffusion._shared import critic_of, denoising, score_gap, uniform_times
from limbeck.models.denoiser import Denoised, Denoiser
from limbeck.models.sampling import FewStep

CARD = Card(
    key="cdm",
    title="Continuous-Time Distribution Matching for Few-Step Diffusion Distillation",
    authors="Tao Liu, Hao Yan, Mengting Chen, Taihang Hu, Zhengrong Yue, Zihao Pan, Jinsong Lan, Xiaoyong Zhu, "
    "Ming-Ming Cheng, Bo Zheng, Yaxing Wang",
    year=2026,
    url="https://arxiv.org/abs/2605.06376",
    repo="https://github.com/byliutao/cdm",
    family="diffusion",
    summary="Distribution matching at random places of runs of random length, on the student's path and off it.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="probabilities",
    loop="alternating",
    needs=("probabilities",),
    stationary=("matching", "off_path"),
    notes="The losses are halved, as DMD's are: a factor for the optimiser. The critic is drawn to the student where "
    "both are networks of one shape. The student's own average is left to the run. On other paths than flow matching "
    "a straight line is a DDIM step. The student begins as the teacher.",
)


class CDM(Method):
    """Guidance and matching at random times, on and off the student's own trajectories."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    guidance: NonNegative = 7.0
    """Weight w of the guidance direction; 0 for none. Paper: 7. In ``u + w' (c - u)`` it is ``w' - 1``."""
    longest: Count = 28
    """Steps of a run at most. Paper: 28."""
    t_low: Fraction = 0.25
    """Earliest time of a run's inner steps. Paper: 0.25."""
    t_high: Fraction = 0.95
    """Latest time of a run's inner steps. Paper: 0.95."""
    off_path: NonNegative = 1.0
    """Weight of the loss off the path. Paper: 1; the released code's own default leaves it out."""
    ratio: Count = 2
    """Steps of the critic for one of the student. Paper: 2."""
    pull: Fraction = 0.999
    """What the critic keeps of its own weights after a step; the rest is the student's. Paper: 0.999; off at 1."""
    floor: NonNegative = 0.1
    """The least distance a direction is divided by. Paper: 0.1."""
    steps: Count = 4
    """Steps the finished student is sampled in, at even times. Paper: 4."""
    t_min: Fraction = 0.02
    """Earliest time samples are noised to, and the student is asked at."""
    t_max: Fraction = 0.98
    """Latest time samples are noised to, and the student is asked at off the path."""

    def __post_init__(self) -> None:
        if self.guidance and not self.teacher.classes:
            raise InputError("guidance", self.guidance, "needs a conditional teacher; this one has no classes")
        freeze(self.teacher)
        self.critic = critic_of(self.teacher, self.student)
        shapes = [[p.shape for p in m.parameters()] for m in (self.critic, self.student)]
        self.alike = shapes[0] == shapes[1]
        self.student.sampler = FewStep(tuple(1 - k / self.steps for k in range(self.steps)), gamma=0.0)

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "critic": list(self.critic.parameters())}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        states, said = self.rollout(batch)
        place = int(torch.randint(len(states), ()))
        if (clock.step + 1) % self.ratio == 0:
            yield Update(self.losses(states[place], said[place], batch.y))
        x = said[int(torch.randint(len(said), ()))].x0
        told = denoising(self.critic, x, uniform_times(x, self.t_min, self.t_max), batch.y, target="velocity")
        yield Update({"denoising": told.mean()}, "critic")
        if self.alike and self.pull < 1:
            with torch.no_grad():
                for mine, theirs in zip(self.critic.parameters(), self.student.parameters(), strict=True):
                    mine.lerp_(theirs, 1 - self.pull)

    @torch.no_grad()
    def rollout(self, batch: Samples) -> tuple[list[Tensor], list[Denoised]]:
        """The states of a run on a random schedule, and what the student said in each."""
        count = int(torch.randint(1, self.longest + 1, ()))
        inner = self.t_low + (self.t_high - self.t_low) * torch.rand(count - 1)
        times = [1.0, *inner.sort(descending=True).values.tolist()]
        states, said = [self.student.prior(torch.randn_like(batch.x))], list[Denoised]()
        for t, s in itertools.pairwise([*times, 0.0]):
            said.append(self.student(states[-1], t, batch.y))
            states.append(said[-1].at(s))
        return states[:-1], said

    def losses(self, x_t: Tensor, said: Denoised, y: Tensor) -> dict[str, Tensor]:
        """The three terms at one place of a run: its state and what was said there."""
        x0, terms = self.student(x_t, said.t, y).x0, dict[str, Tensor]()
        if self.guidance:
            terms["augmentation"] = follow(x0, -self.guidance * self.spear(x0, said.t, y)).mean()
        terms["matching"] = follow(x0, -self.shield(x0, y)).mean()
        if self.off_path:
            u = torch.rand_like(said.t).clamp(self.t_min, self.t_max)
            off = self.student(said.at(u), u, y).x0
            terms["off_path"] = self.off_path * follow(off, -self.shield(off, y)).mean()
        return terms

    @torch.no_grad()
    def spear(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Where guidance leads, (B, ...), read in samples noised no further than t (B,)."""
        s = self.t_min + (t.clamp(self.t_min, self.t_max) - self.t_min) * torch.rand_like(t)
        x_s = self.teacher.path.noised(x, torch.randn_like(x), s)
        real = self.teacher(x_s, s, y).x0
        return (real - self.teacher(x_s, s).x0) / distance(x, real, self.floor)

    def shield(self, x: Tensor, y: Tensor) -> Tensor:
        """From where the critic sees samples to where the teacher does, (B, ...)."""
        return -score_gap(x, y, self.teacher, self.critic, self.t_min, self.t_max, self.floor)
