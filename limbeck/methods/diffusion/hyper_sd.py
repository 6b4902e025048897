"""Hyper-SD: trajectory segmented consistency model for efficient image synthesis (Ren et al., 2024).
https://arxiv.org/abs/2404.13686

Time is cut into k equal segments, and the student learns to jump to any time s of the segment that t is in:

    s ~ U[s_min(t), t'],    x_s = f_theta(x_t, t, s)                     the student's jump
    x^_s = f_theta-(Psi(x_t, t -> t'), t', s)                            its average, from the guided teacher's step
    L_TSCD = ||x_s - x^_s||^2 + lambda / k  (-D(x_s)),    D a hinge discriminator on the teacher's inner features

with k = 8, then 4, 2 and 1, so that early phases keep the trajectory and later ones lengthen the jump. Two stages
may follow, each together with L_TSCD at the last k:

    L_reward = max(0, m - R(x0, y))                                      feedback of a differentiable scorer
    L_score  = 1/2 ||x0 - sg(x0 - (mu_fake(x_t) - mu_real(x_t)) / mean |x0 - mu_real|)||^2   one step, from noise

where mu_fake learns to denoise what the student makes in one step (distribution matching).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Setting, Update, roles
from limbeck.core.modules import Ema, freeze
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.losses.adversarial import hinge
from limbeck.losses.score import follow
from limbeck.methods.diffusion._jumps import below, consistency, edges, stage, toward
from limbeck.methods.diffusion._shared import (
    critic_of,
    denoising,
    discriminator_of,
    logits_of,
    produce,
    score_gap,
    simulate,
    uniform_times,
)  # fmt: skip
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.sampling import FewStep

CARD = Card(
    key="hyper_sd",
    title="Hyper-SD: Trajectory Segmented Consistency Model for Efficient Image Synthesis",
    authors="Yuxi Ren, Xin Xia, Yanzuo Lu, Jiacheng Zhang, Jie Wu, Pan Xie, Xing Wang, Xuefeng Xiao",
    year=2024,
    url="https://arxiv.org/abs/2404.13686",
    family="diffusion",
    summary="Consistency within ever fewer segments of time, then a reward, then score distillation for one step.",
    modality="diffusion",
    teacher="frozen",
    data="labelled",
    signal="features",
    loop="alternating",
    fidelity="reconstruction",
    notes="There is no training code: the grid, the guidance, the average's decay, the adversarial weight (lambda / "
    "k) and the length of the later stages are assumed. The reward is any differentiable module of clean samples and "
    "labels (B,), given from Python; the paper's perceptual term of a segmentation network would be part of it.",
)

Stage = Literal["consistency", "reward", "score"]


class HyperSD(Method):
    """Segmented consistency, in the first stage alone and in the later ones beside a reward or a score."""

    student: Denoiser
    teacher: Denoiser
    reward: nn.Module | None = None
    _: KW_ONLY
    stages: tuple[Stage, ...] = ("consistency", "score")
    """Stages of a whole run, in this order; the method itself is the first. Paper: all three; reward needs a scorer."""
    segments: tuple[int, ...] = (8, 4, 2, 1)
    """Numbers k of segments, each for an equal part of the first stage; later stages stay at the last."""
    grid: Count = 64
    """Equidistant times of the teacher's solver; assumed."""
    guidance: NonNegative = 7.5
    """The teacher's guidance, u + w (c - u), off at 1; assumed."""
    decay: Fraction = 0.95
    """Decay of the averaged student that makes the targets; assumed."""
    gan: NonNegative = 0.1
    """Weight lambda of the adversarial term, divided by k; 0 leaves the discriminator out. Assumed."""
    margin: float = 1.0
    """Reward m from which on nothing is asked for."""
    ratio: Count = 5
    """Steps of the score's critic to one of the student; assumed, as for improved distribution matching."""
    later: Fraction = 0.25
    """Length of a later stage, as a share of the first; assumed."""
    times: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    """Times at which the student is sampled, falling. The last stage trains one step from the first."""
    gamma: Fraction = 0.3
    """Share of fresh noise between two steps of sampling."""

    def __post_init__(self) -> None:
        if not self.stages or (self.stages[0] == "reward" and self.reward is None):
            raise InputError("stages", self.stages, "must be some of consistency, reward (with a scorer) and score")
        freeze(self.teacher)
        self.guided, self.average = Guided(self.teacher, self.guidance), Ema(self.student, self.decay)
        if self.reward is not None:
            freeze(self.reward)
        self.critic: nn.Module | None = None
        if self.stages[0] == "score":
            self.critic = critic_of(self.teacher, self.student)
        elif self.stages[0] == "consistency" and self.gan:
            self.critic = discriminator_of(self.teacher)
        self.student.sampler = FewStep(self.times, self.gamma, target=self.student.extras > 0)

    def players(self) -> dict[str, list[nn.Parameter]]:
        played = {"student": list(self.student.parameters())}
        return played if self.critic is None else played | {"critic": list(self.critic.parameters())}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        k, begins = stage(clock, self.segments) if self.stages[0] == "consistency" else (self.segments[-1], False)
        if begins:
            self.average.update(self.student, 0.0)
        jumped, goal, s = self.jump(batch, k)
        terms = {"consistency": (jumped - goal).square().flatten(1).mean(1).mean()}
        match self.stages[0]:
            case "consistency" if self.critic is not None:
                terms["adversarial"] = -self.gan / k * self.logits(jumped, s, batch.y).mean()
            case "reward":
                terms["reward"] = self.scored(batch)
            case "score":
                x = produce(self.student, torch.randn_like(batch.x), batch.y, self.times[0])
                terms["score"] = self.matching(x, batch.y)
            case "consistency":
                pass
        if (yield Update(terms)):
            self.average.update(self.student)
        match self.stages[0]:
            case "consistency" if self.critic is not None:
                fake, real = (self.logits(x.detach(), s, batch.y) for x in (jumped, goal))
                yield Update({"hinge": (hinge(fake, real=False) + hinge(real, real=True)).mean()}, "critic")
            case "score":
                assert self.critic is not None
                for _ in range(self.ratio):
                    with torch.no_grad():
                        x = produce(self.student, torch.randn_like(batch.x), batch.y, self.times[0])
                    yield Update({"fake": denoising(self.critic, x, uniform_times(x), batch.y).mean()}, "critic")
            case _:
                pass

    def jump(self, batch: Samples, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """The student's jump and its goal, (B, ...), and the times (B,) at which both are."""
        n = torch.randint(1, self.grid + 1, (len(batch.x),), device=batch.x.device)
        low = below(n, edges(k, self.grid).to(n.device)) / self.grid
        t, near = n / self.grid, (n - 1) / self.grid
        s = low + (near - low) * torch.rand_like(t)
        x_t = self.teacher.path.noised(batch.x, torch.randn_like(batch.x), t)
        with torch.no_grad():
            x_near = self.guided(x_t, t, batch.y).at(near)
        told = toward(self.student, s)
        return *consistency(self.student, self.average, x_t, x_near, t, near, s, batch.y, told), s

    def logits(self, x_s: Tensor, s: Tensor, y: Tensor) -> Tensor:
        """The discriminator on the teacher's features of states at times s."""
        assert self.critic is not None
        return logits_of(self.critic, self.teacher, x_s, s, y)

    def scored(self, batch: Samples) -> Tensor:
        """What is missing to the margin, for the student's clean sample at a random one of its steps."""
        assert self.reward is not None
        step = int(torch.randint(len(self.times), ()))
        x_t = simulate(self.student, torch.randn_like(batch.x), batch.y, self.times, step)
        return (self.margin - self.reward(self.student(x_t, self.times[step], batch.y).x0, batch.y)).relu().mean()

    def matching(self, x: Tensor, y: Tensor) -> Tensor:
        """The gradient of the reverse KL divergence at one-step samples x, as a loss."""
        assert self.critic is not None
        return follow(x, score_gap(x, y, self.guided, self.critic, 0.02, 0.98)).mean()

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """One fit a stage, each from the student of the one before."""
        models = roles(cls, setting)
        method = cls(**models, **values)
        for number, name in enumerate(method.stages):
            if number:
                method = cls(**models, **dict(values, stages=(name,)))
            steps = setting.steps if name == "consistency" else max(1, round(method.later * setting.steps))
            setting.fit(method, name=name, steps=steps)
        return method.student
