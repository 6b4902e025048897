"""Distilling diversity and control in diffusion models (Gandikota & Bau, 2025). https://arxiv.org/abs/2503.10637

A step-distilled model fixes the layout of a sample at its first step, and there loses diversity. So its teacher
takes that step:

    j*                = argmin_j |t_base[j] - t_dist[k]|
    x_{t_base[j*]}    = BaseSampler(x_T; guidance w_b, steps 0 .. j* - 1)
    x_0               = DistilledSampler(x_{t_base[j*]}; its steps k .. N - 1)

with the same noise and no training. What a model intends at time t is x0 = (x_t - sigma_t eps) / alpha_t
(:func:`intentions`). Weight changes learnt on the base, such as adapters, move to the distilled model by addition
(:func:`transfer_control`): W_dist' = W_dist + s (W_base' - W_base).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Count, Method, NonNegative, Setting
from limbeck.core.modules import freeze
from limbeck.errors import InputError
from limbeck.methods.diffusion._shared import trainable
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.path import Path
from limbeck.models.sampling import FewStep, grid, solve

CARD = Card(
    key="diversity_distillation",
    title="Distilling Diversity and Control in Diffusion Models",
    authors="Rohit Gandikota, David Bau",
    year=2025,
    url="https://arxiv.org/abs/2503.10637",
    repo="https://github.com/rohitgandikota/distillation",
    family="diffusion",
    summary="The teacher takes a few-step student's first step, which gives back the diversity that distillation cost.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="features",
    loop="training_free",
    notes="The student is given already distilled. The state is handed over at the time of the base's grid that is "
    "nearest to the student's, on the student's own scale of data and noise. A guided step counts as two evaluations.",
)


def matched(t: float, source: Path, target: Path) -> float:
    """The time on another path at which there is as much noise for the data."""
    return t if source == target else float(target.time(source.ratio(torch.tensor(t))))


class Relay(nn.Module):
    """The base from pure noise to the student's step k, then the student, as a sampler of the student.

    Args:
        base: sampled with guidance.
        path: the student's.
        rest: the student's sampler from step k on.
        steps: of the base's grid from 1 to 0.
        guidance: of the base, off at 1.
    """

    def __init__(self, base: Denoiser, path: Path, rest: FewStep, steps: int, guidance: float) -> None:
        super().__init__()
        self.base, self.path, self.rest, self.steps, self.guidance = base, path, rest, steps, guidance
        wanted = matched(rest.times[0], path, base.path)
        apart = [abs(t - wanted) for t in grid(steps)]
        self.times = grid(steps)[: apart.index(min(apart)) + 1]
        calls = 2 if guidance != 1 and base.classes else 1
        self.nfe = calls * (len(self.times) - 1) + rest.nfe

    def forward(
        self, model: nn.Module, noise: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        base = Guided(self.base, self.guidance) if self.base.classes else self.base
        x = solve(base, self.base.prior(noise), self.times, y)[-1]
        last = self.times[-1]
        here, there = (x.new_tensor(t) for t in (last, matched(last, self.base.path, model.path)))
        scale = model.path.sigma(there) / self.base.path.sigma(here)  # the student's units at the same ratio
        return self.rest.resume(model, scale * x, y, generator)


class DiversityDistillation(Method):
    """A distilled student whose first steps are its teacher's."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    start: Count = 1
    """The step k of the student that is its first; the teacher takes those before. Paper: 1."""
    steps: Count = 4
    """Steps of the teacher's grid from pure noise to data. Paper: 4."""
    guidance: NonNegative = 7.0
    """Classifier-free guidance of the teacher, off at 1. Paper: 7."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        own = self.student.sampler
        times = own.times if isinstance(own, FewStep) else tuple(grid(4)[:-1])
        if self.start >= len(times):
            raise InputError("method.start", self.start, f"leaves the student no step of its {len(times)}; give less")
        rest = FewStep(times[self.start :], *((own.gamma, own.target, own.extra) if isinstance(own, FewStep) else ()))
        self.student.sampler = Relay(self.teacher, self.student.path, rest, self.steps, self.guidance)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        return cls(setting.student(), setting.teachers[0], **values).student


@torch.no_grad()
def intentions(model: Denoiser, noise: Tensor, times: Sequence[float], y: Tensor | None = None) -> list[Tensor]:
    """What a model intends at each time of a run of its own: its ``x0`` (B, ...) there; decode latents to look at
    them."""
    seen, x = [], model.prior(noise, times[0])
    for t, s in itertools.pairwise((*times, 0.0)):
        said = model(x, t, y)
        seen.append(said.x0)
        x = said.at(s)
    return seen


def transfer_control(student: Denoiser, base: Denoiser, tuned: Denoiser, strength: float = 1.0) -> Denoiser:
    """A copy of the student with what tuning changed in its base: ``W_dist + s (W_base' - W_base)``.

    Raises:
        InputError: where the three do not have the same weights by name and shape.
    """
    made, before, after = trainable(student), base.state_dict(), tuned.state_dict()
    own = made.state_dict()
    for name, weight in own.items():
        if name in before and (before[name].shape != weight.shape or after[name].shape != weight.shape):
            raise InputError("student", name, "has another shape in the base; control moves between equal networks")
        if name in before and weight.is_floating_point():
            weight += strength * (after[name] - before[name])
    return made
