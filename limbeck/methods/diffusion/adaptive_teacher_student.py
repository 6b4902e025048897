"""Your student is better than expected: adaptive teacher-student collaboration (Starodubcev et al., 2023).
https://arxiv.org/abs/2312.10835

A few-step student's sample is often as good as its teacher's, and an estimator can tell when. The student always
draws first,

    x_S = G_student(z, c),       s = r(c, x_S),       tau = percentile_k of r on the student's own samples
    s >= tau:   x = x_S
    else        x = ODE_teacher(alpha x_S + sigma eps; from `rollback` to 0, guidance w)          refinement
         or     x = ODE_teacher(fresh noise; from 1 to 0, guidance w)                             regeneration

so that k per cent go to the teacher and the mean cost is N_S + k/100 (2 N_T) evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Count, Fraction, Method, NonNegative, Setting
from limbeck.core.modules import freeze
from limbeck.methods.diffusion._rewards import LabelEvidence, Reward
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.sampling import Sampler, Solver, grid, solve

CARD = Card(
    key="adaptive_teacher_student",
    title="Your Student is Better Than Expected: Adaptive Teacher-Student Collaboration for Text-Conditional "
    "Diffusion Models",
    authors="Nikita Starodubcev, Artem Fedorov, Artem Babenko, Dmitry Baranchuk",
    year=2023,
    url="https://arxiv.org/abs/2312.10835",
    repo="https://github.com/yandex-research/adaptive-diffusion",
    family="diffusion",
    summary="A student's samples that an estimator finds wanting are improved by its teacher; the others are kept.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="features",
    loop="training_free",
    notes="The student is given already distilled. The estimator is a function of your own; without one it is the "
    "teacher's evidence for the label, where the paper has ImageReward. Do not judge with the estimator that routes. "
    "The generator is passed to the teacher, which the released code forgets.",
)

Strategy = Literal["refine", "regenerate"]
Percent = Annotated[float, Interval(ge=0, le=100)]


class Router(nn.Module):
    """The student, and its teacher where a score is below the threshold, as a sampler of the student.

    Args:
        own: the student's sampler.
        teacher, reward: who improves a sample, and who says which.
        percent, strategy, rollback, steps, solver, guidance: the method's.
    """

    def __init__(
        self, own: Sampler, teacher: Denoiser, reward: Reward, *, percent: float, strategy: Strategy, rollback: float,
        steps: int, solver: Solver, guidance: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.own, self.teacher, self.reward = own, teacher, reward
        self.percent, self.strategy, self.rollback, self.steps = percent, strategy, rollback, steps
        self.solver, self.guidance = solver, guidance
        self.register_buffer("tau", torch.tensor(-torch.inf))

    @property
    def nfe(self) -> int:
        """Rounded: the student's, and the teacher's for its share of the samples."""
        calls = 2 if self.guidance != 1 and self.teacher.classes else 1
        return self.own.nfe + round(self.percent / 100 * calls * self.steps)

    def forward(
        self, model: nn.Module, noise: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        x = self.own(model, noise, y, generator)
        sent = (self.reward(x, y) < self.tau).nonzero().squeeze(1)
        if len(sent):
            x = x.index_copy(0, sent, self.improved(x[sent], None if y is None else y[sent], generator))
        return x

    def improved(self, x: Tensor, y: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """The teacher's samples (B, ...) in place of the student's."""
        fresh = torch.randn(x.shape, generator=generator).to(x)
        teacher, start = Guided(self.teacher, self.guidance) if self.teacher.classes else self.teacher, 1.0
        x_t = self.teacher.prior(fresh)
        if self.strategy == "refine":
            start = self.rollback
            x_t = self.teacher.path.noised(x, fresh, x.new_full((len(x),), start))
        return solve(teacher, x_t, grid(self.steps, start), y, solver=self.solver)[-1]


class AdaptiveTeacherStudent(Method):
    """A student and its teacher, who is asked only where it is needed."""

    student: Denoiser
    teacher: Denoiser
    reward: Reward | None = None
    _: KW_ONLY
    percent: Percent = 50.0
    """The percentile k of the student's scores below which the teacher is asked. Paper: 10 to 90."""
    strategy: Strategy = "refine"
    """Whether the teacher goes on from the student's sample, noised, or begins anew."""
    rollback: Fraction = 0.4
    """The time a sample is noised to for refinement. Paper: 0.4 for SDXL, about 0.7 for weaker students."""
    steps: Count = 4
    """The teacher's steps. Paper: 4 for refinement."""
    solver: Solver = "dpm2m"
    """The teacher's solver. Paper: UniPC for refinement, DPM-Solver for regeneration."""
    guidance: NonNegative = 8.0
    """The teacher's classifier-free guidance, off at 1. Paper: 8."""
    calibration: Count = 1000
    """Samples of the student that the threshold is computed on. Paper: 5000 prompts."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        if self.reward is None:
            self.reward = LabelEvidence(self.teacher)
        self.student.sampler = Router(
            self.student.sampler, self.teacher, self.reward, percent=self.percent, strategy=self.strategy,
            rollback=self.rollback, steps=self.steps, solver=self.solver, guidance=self.guidance,
        )  # fmt: skip

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        method = cls(setting.student(), setting.teachers[0], **values)
        method.calibrate()
        return method.student

    @torch.no_grad()
    def calibrate(self) -> None:
        """Set the threshold to the percentile of the student's own scores, all classes alike."""
        router = self.student.sampler
        noise = self.student.noise(self.calibration)
        y = torch.arange(len(noise), device=noise.device) % len(self.student.classes) if self.student.classes else None
        scores = router.reward(router.own(self.student, noise, y, None), y)
        router.tau = torch.quantile(scores, self.percent / 100) if self.percent else scores.new_tensor(-torch.inf)
