"""Tuning timestep-distilled diffusion models using pairwise sample optimization (Miao et al., 2024).
https://arxiv.org/abs/2410.03190

A few-step generator is tuned to a preference without distilling it again, only at the K times its sampler visits,
against itself as it was (the teacher). The steps of its re-noising sampler are Gaussian, N(alpha_s x0(x_t), sigma_s^2),
and the sample with the higher reward of two wins, at every stochastic step of the two runs:

    r^i       = clip(p_theta(x_s^i | x_t^i) / p_ref(x_s^i | x_t^i), 1 - eps, 1 + eps),    i in {w, l}
    L_online  = -log sigmoid(beta log r^w - beta log r^l)                      log p is a mean over pixels

Offline the winner is a sample of the data, the loser one of the generator's own, at one of the K times t:

    e(x)      = mean ||x0_theta(alpha_t x + sigma_t eps, t, c) - x||^2
    L_offline = -log sigmoid(beta ((e_ref(x_w) - e_ref(x_l)) - (e_theta(x_w) - e_theta(x_l))))
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Method, Positive, Setting, Update
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.methods.diffusion._rewards import LabelEvidence, Reward
from limbeck.methods.diffusion._shared import trainable
from limbeck.models.denoiser import Denoiser
from limbeck.models.sampling import FewStep

CARD = Card(
    key="pso",
    title="Tuning Timestep-Distilled Diffusion Model Using Pairwise Sample Optimization",
    authors="Zichen Miao, Zhengyuan Yang, Kevin Lin, Ze Wang, Zicheng Liu, Lijuan Wang, Qiang Qiu",
    year=2024,
    url="https://arxiv.org/abs/2410.03190",
    repo="https://github.com/ZichenMiao/Pairwise_Sample_Optimization",
    family="diffusion",
    summary="A few-step generator is tuned to a preference at its own few steps, by pairs of its samples.",
    modality="diffusion",
    teacher="frozen",
    data="unlabelled",
    signal="probabilities",
    loop="on_policy",
    notes="The teacher is the generator before tuning, and the student begins as its copy. Every weight is tuned; the "
    "paper tunes adapters of rank 32. The reward is a function of your own; without one it is the teacher's evidence "
    "for the label. The third variant, of DreamBooth, is left out. Rows without a label are tuned without one.",
)


class PSO(Method):
    """Pairwise preference at the times of a few-step sampler."""

    student: Denoiser
    teacher: Denoiser
    reward: Reward | None = None
    _: KW_ONLY
    mode: Literal["online", "offline"] = "online"
    """Whether both of a pair are the generator's own, told apart by the reward, or the winner is a sample of the
    data."""
    times: tuple[float, ...] = ()
    """Times of the generator's steps, falling; none for those of its own sampler."""
    beta: Positive = 50.0
    """Sharpness of the preference. Paper: 50 online, where log p is a mean over pixels; 5 offline."""
    clip: Positive = 0.1
    """How far the ratio of densities may go from 1 before it has no gradient. Paper: 0.1."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        if self.reward is None:
            self.reward = LabelEvidence(self.teacher)
        own = self.student.sampler
        self.steps = self.times or (own.times if isinstance(own, FewStep) else ())
        if not self.steps or (self.mode == "online" and len(self.steps) < 2):
            raise InputError(
                "method.times", list(self.steps), "are the generator's times; give those it was distilled for, "
                "two or more online",
            )  # fmt: skip
        self.student.sampler = FewStep(self.steps)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        teacher, values = setting.teachers[0], dict(values)
        if not isinstance(teacher.sampler, FewStep) and not values.get("times"):
            values["times"] = (1.0, 0.75, 0.5, 0.25)
        method = cls(trainable(teacher), teacher, **values)
        setting.fit(method)
        return method.student

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        y = batch.y if self.student.classes else None
        if self.mode == "offline":
            yield Update({"preference": self.offline(batch.x, y)})
            return
        (a, first), (b, second) = self.run(batch.x, y), self.run(batch.x, y)
        assert self.reward is not None
        wins = self.reward(first, y) >= self.reward(second, y)  # equal rewards are a label too
        for k, (t, s) in enumerate(itertools.pairwise(self.steps)):
            better, worse = (self.log_ratio(x[k], x[k + 1], (t, s), y) for x in (a, b))
            margin = torch.where(wins, better - worse, worse - better)
            yield Update({"preference": -F.logsigmoid(self.beta * margin).mean()})

    @torch.no_grad()
    def run(self, like: Tensor, y: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """A run of the sampler from fresh noise: the states at its times, and the clean end."""
        states = [self.student.prior(torch.randn_like(like), self.steps[0])]
        for t, s in itertools.pairwise(self.steps):
            x0 = self.student(states[-1], t, y).x0
            states.append(self.student.path.noised(x0, torch.randn_like(like), like.new_full((len(like),), s)))
        return states, self.student(states[-1], self.steps[-1], y).x0

    def log_ratio(self, x_t: Tensor, x_s: Tensor, step: tuple[float, float], y: Tensor | None) -> Tensor:
        """``log r`` (B,) of a step that was taken from t to s, clipped."""
        now = self.log_density(self.student, x_t, x_s, step, y)
        with torch.no_grad():
            before = self.log_density(self.teacher, x_t, x_s, step, y)
        return (now - before).clamp(
            math.log(max(1 - self.clip, 1e-6)), math.log(1 + self.clip)
        )  # of the ratio, in logs

    def log_density(
        self, model: Denoiser, x_t: Tensor, x_s: Tensor, step: tuple[float, float], y: Tensor | None
    ) -> Tensor:
        """``log p(x_s | x_t)`` (B,), a mean over pixels, without its constant."""
        at = torch.tensor(step[1], device=x_t.device)
        mean = model.path.alpha(at) * model(x_t, step[0], y).x0
        return -(x_s - mean).square().flatten(1).mean(1) / (2 * model.path.sigma(at).square())

    def offline(self, x_w: Tensor, y: Tensor | None) -> Tensor:
        """The loss of data against the generator's own samples."""
        _, x_l = self.run(x_w, y)
        t, eps = self.steps[int(torch.randint(len(self.steps), ()))], torch.randn_like(x_w)

        def missed(model: Denoiser, x: Tensor) -> Tensor:
            return (model(model.path.noised(x, eps, x.new_full((len(x),), t)), t, y).x0 - x).square().flatten(1).mean(1)

        with torch.no_grad():
            before = missed(self.teacher, x_w) - missed(self.teacher, x_l)
        now = missed(self.student, x_w) - missed(self.student, x_l)
        return -F.logsigmoid(self.beta * (before - now)).mean()
