"""DisBack: distribution backtracking for one-step diffusion distillation (Zhang et al., 2024).
https://arxiv.org/abs/2408.15991

First the way from the teacher to what the untrained student G_0 makes is recorded, N copies in turn, by denoising:

    min_{s'} E ||s'(x_t, t) - eps||^2,   x_t from G_0(z),   s' = teacher at first        kept: s'_1 ... s'_N

Then the student goes that way back: distribution matching with a moving teacher,

    grad_theta = E w(t) (s_phi(x_t, t) - s'_{N-j}(x_t, t)) dx / dtheta                   j = 1 ... N, s'_0 = teacher

where the critic s_phi begins as s'_N and learns the student's present samples, as always.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Setting, Update, roles
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.losses.score import follow
from limbeck.methods.diffusion._shared import critic_of, denoising, produce, score_gap, still, trainable, uniform_times
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.sampling import FewStep

CARD = Card(
    key="disback",
    title="Distribution Backtracking Builds A Faster Convergence Trajectory for One-step Diffusion Distillation",
    authors="Shengyuan Zhang, Ling Yang, Zejian Li, An Zhao, Chenye Meng, Changyuan Yang, Guang Yang, Zhiyuan Yang, "
    "Lingyun Sun",
    year=2024,
    url="https://arxiv.org/abs/2408.15991",
    repo="https://github.com/SYZhang0805/DisBack",
    family="diffusion",
    summary="The student chases ever better teachers: copies recorded on the way from the teacher down to it.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="probabilities",
    loop="pipeline",
    needs=("weights",),
    notes="The host is DMD2's matching term without its discriminator, which the release adds. The copies cost a "
    "network each while the student trains. Guidance is the teacher's alone and reaches its copies too. On a ring of "
    "eight modes most of what is gained over the host comes of the critic that begins at the last copy; in trials what "
    "the way back adds to that was within the scatter of the seeds.",
)


class DisBack(Method):
    """One of the two stages: without a path it is recorded, with one it is gone back."""

    student: Denoiser
    teacher: Denoiser
    path: nn.ModuleList | None = None
    _: KW_ONLY
    stops: Count = 8
    """Copies N on the way from the teacher to the untrained student. Paper: 5 to 10."""
    degradation: Positive = 0.2
    """Steps of the recording, as a share of the run's, which come before them. Paper: about a thousand in all."""
    backtracking: Fraction = 0.5
    """Share of the run after which the teacher itself is reached."""
    ratio: Count = 5
    """Steps of the critic for one of the generator. Release: 5."""
    guidance: NonNegative = 1.0
    """Classifier-free guidance of the teachers on the way, off at 1."""
    t_min: Fraction = 0.02
    """Earliest time the generator's samples are noised to."""
    t_max: Fraction = 0.98
    """Latest time the generator's samples are noised to."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.student.sampler = FewStep()
        begins = critic_of(self.teacher, self.student)
        if self.path is None:
            self.recorded = nn.ModuleList(copy.deepcopy(begins).requires_grad_(False) for _ in range(self.stops))
        else:
            freeze(self.path)
            begins = trainable(self.path[-1])  # type: ignore[arg-type]
        self.critic = begins

    def players(self) -> dict[str, list[nn.Parameter]]:
        critic = {"critic": list(self.critic.parameters())}
        return critic if self.path is None else {"student": list(self.student.parameters()), **critic}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        if self.path is not None and clock.step % self.ratio == 0:
            x = produce(self.student, torch.randn_like(batch.x), batch.y)
            yield Update({"matching": self.matching(x, batch.y, clock)})
        with torch.no_grad(), still(self.student):
            x = produce(self.student, torch.randn_like(batch.x), batch.y)
        yield Update({"denoising": denoising(self.critic, x, uniform_times(x, 0.0, 1.0), batch.y).mean()}, "critic")
        if self.path is None:
            for stop in range(clock.step * self.stops // clock.steps, (clock.step + 1) * self.stops // clock.steps):
                self.recorded[stop].load_state_dict(self.critic.state_dict())

    def matching(self, x: Tensor, y: Tensor, clock: Clock) -> Tensor:
        """DMD's gradient at x towards the teacher of the moment."""
        real = Guided(self.target(clock), self.guidance)
        return follow(x, score_gap(x, y, real, self.critic, self.t_min, self.t_max)).mean()

    def target(self, clock: Clock) -> nn.Module:
        """The teacher of the moment: one stop nearer to the true one at even intervals, and that one at last."""
        assert self.path is not None
        back = [*reversed(list(self.path)[:-1]), self.teacher]
        reached = clock.fraction / self.backtracking if self.backtracking else 1.0
        return back[min(int(reached * (len(back) - 1)), len(back) - 1)]

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Record the way from the teacher to the untrained student, then go it back."""
        made = roles(cls, setting)
        first = cls(**made, **values)
        setting.fit(first, name="degradation", steps=max(round(first.degradation * setting.steps), 1))
        second = cls(**made, path=first.recorded, **values)
        setting.fit(second)
        return second.student
