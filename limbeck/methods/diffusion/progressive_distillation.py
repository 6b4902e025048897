"""Progressive distillation for fast sampling of diffusion models (Salimans & Ho, 2022).
https://arxiv.org/abs/2202.00512

A student of N steps learns to do in one DDIM step what its teacher does in two; then it is the teacher of N / 2. At a
time t = i / N of the student's own grid, with t' = t - 1/2N and t'' = t - 1/N, the frozen teacher steps twice,
z_t -> z_t' -> z_t''. The sample that the student must see so that one step from z_t ends in the same z_t'' is

    x~ = (z_t'' - (sigma_t'' / sigma_t) z_t) / (alpha_t'' - (sigma_t'' / sigma_t) alpha_t)
    L  = w(t) ||x~ - x_theta(z_t)||^2,    w = max(alpha_t^2 / sigma_t^2, 1)  (truncated SNR)  or  SNR + 1

The loss is in x: an error in eps says nothing of the sample where the signal is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, Setting, hyperparameters
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.methods.diffusion._shared import trainable
from limbeck.models.denoiser import Denoiser
from limbeck.models.path import Path, wide
from limbeck.models.sampling import Ode, solve

CARD = Card(
    key="progressive_distillation",
    title="Progressive Distillation for Fast Sampling of Diffusion Models",
    authors="Tim Salimans, Jonathan Ho",
    year=2022,
    url="https://arxiv.org/abs/2202.00512",
    repo="https://github.com/google-research/google-research/tree/master/diffusion_distillation",
    family="diffusion",
    summary="The number of sampling steps is halved again and again: one step learns two of the round before.",
    modality="diffusion",
    teacher="frozen",
    data="labelled",
    signal="features",
    loop="generations",
    notes="Every round is a full schedule from the weights of the one before, with a new optimiser; the last two (2 "
    "steps and 1) take twice as long, as in the paper, whose learning rate falls linearly to 0 in every round: use "
    "Linear(1, 0). Students are copies of the teacher, so a network given as the student is not used.",
)


def in_one_step(path: Path, z: Tensor, t: Tensor, end: Tensor, s: Tensor) -> Tensor:
    """``x~`` (B, ...): the clean sample with which one DDIM step from ``z`` at t (B,) lands on ``end`` at s (B,)."""
    kept = wide(path.sigma(s) / path.sigma(t), z)
    return (end - kept * z) / (wide(path.alpha(s), z) - kept * wide(path.alpha(t), z))


class ProgressiveDistillation(Method):
    """One round: a student of ``end`` steps from a teacher of twice as many. :meth:`distil` runs them all."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    end: Count = 4
    """Steps N of the student. Paper: 4 to 8 for the quality of the teacher; it goes on to 2 and 1."""
    start: Count = 1024
    """Steps of the teacher's sampler: ``end`` times a power of two. Paper: 1024, 8192 for CIFAR-10."""
    weight: Literal["truncated_snr", "snr_plus_one"] = "truncated_snr"
    """How the times weigh; the paper uses either, and never the plain SNR, which is zero at t = 1."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.student.sampler = Ode(self.end)

    def loss(self, batch: Samples, clock: Clock) -> dict[str, Tensor]:
        path, x, y = self.teacher.path, batch.x, batch.y
        t = torch.randint(1, self.end + 1, (len(x),), device=x.device) / self.end
        s = (t - 1 / self.end).clamp(min=0)
        z = path.noised(x, torch.randn_like(x), t)
        with torch.no_grad():
            end = solve(self.teacher, z, [t, (t + s) / 2, s], y)[-1]
            seen = in_one_step(path, z, t, end, s)
        apart = (seen - self.student(z, t, y).x0).square().flatten(1).mean(1)
        return {"progressive": (self.weigh(t) * apart).mean()}

    def weigh(self, t: Tensor) -> Tensor:
        """(B,) weights of the error in x."""
        snr = (self.teacher.path.alpha(t) / self.teacher.path.sigma(t)).square()
        return snr.clamp(min=1) if self.weight == "truncated_snr" else snr + 1

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Every round from ``start / 2`` steps to ``end``; the last one's student.

        Raises:
            InputError: when ``start`` is no doubling of ``end``.
        """
        (teacher,) = setting.teachers
        assert isinstance(teacher, Denoiser)
        last, first = (values.get(name, hyperparameters(cls)[name].default) for name in ("end", "start"))
        rounds = [last * 2**k for k in range(64) if last * 2**k < first]
        if not rounds or first != 2 * rounds[-1]:
            raise InputError("start", first, f"must be {last} doubled once or more often: {2 * last}, {4 * last}, ...")
        for steps in reversed(rounds):
            method = cls(trainable(teacher), teacher, **{**values, "end": steps})
            setting.fit(method, name=f"{steps}-steps", steps=setting.steps * (2 if steps <= 2 else 1))
            teacher = method.student
        return teacher
