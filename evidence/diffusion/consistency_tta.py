"""ConsistencyTTA on digits: one call of a student that is told its guidance, against guiding the student directly."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import accuracy_of, batches, digits, digits_teacher, features, judge, made, train
from limbeck.diagnostics.generation import frechet
from limbeck.methods.diffusion.consistency_tta import ConsistencyTTA
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.sampling import Ode
from limbeck.models.tiny_denoiser import mlp
from limbeck.run.evidence import Result

CLAIM = (
    "A consistency model that is told a variable guidance comes in one call nearer to the data, in Frechet distance of "
    "a classifier's features, than one that is guided directly in two calls."
)
STEPS, SCALE = 220, 3.0


def evidence(seed: int, data: Path | None = None) -> Result:
    """Every student begins as the teacher and has the same number of steps; all are sampled with one scale."""
    teacher, real, told = digits_teacher(data, seed), digits(data), judge(data)
    true = features(told, real.take(torch.arange(len(real))).x)

    def arm(guidance: str) -> Denoiser:
        torch.manual_seed(seed + 1)
        student = mlp(256, 3, shape=teacher.shape, classes=teacher.classes, extras=1)
        student.net.load_state_dict(teacher.net.state_dict(), strict=False)  # the rest begins at zero
        method = ConsistencyTTA(student, teacher, guidance=guidance, scale=SCALE)
        train(method, batches(real, seed, 64), STEPS, lr=2e-3)
        return student

    def seen(model: object, sampler: Ode | None = None) -> tuple[float, float]:
        x, y = made(model, 2000, seed, sampler=sampler)
        return frechet(features(told, x), true), accuracy_of(told, x, y)

    guided = Guided(teacher, SCALE)
    (variable, right), (fixed, fixed_right), (direct, direct_right) = (
        seen(arm(guidance)) for guidance in ("variable", "fixed", "direct")
    )  # fmt: skip
    many, many_right = seen(guided, Ode(18, "heun"))
    return Result(
        metric="Frechet distance to the data in a classifier's features, one call",
        baseline=direct,
        method=variable,
        higher_is_better=False,
        versus="a student without guidance, guided directly when sampled",
        extra={
            "fixed guidance": fixed,
            "teacher, one guided step": seen(guided, Ode(1))[0],
            "teacher, 18 guided Heun steps": many,
            "accuracy of variable, %": right,
            "accuracy of fixed, %": fixed_right,
            "accuracy of direct, %": direct_right,
            "accuracy of the teacher in 18 steps, %": many_right,
        },
    )
