"""ConsistencyTTA on digits: one call of a student that is told its guidance, against guiding the student directly."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import accuracy_of, batches, digits, digits_teacher, fid, judge, made, train
from limbeck.methods.diffusion.consistency_tta import ConsistencyTTA
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.sampling import Ode
from limbeck.models.tiny_denoiser import mlp
from limbeck.run.evidence import Result

CLAIM = (
    "A consistency model that is told a variable guidance comes in one call nearer to the data, in Frechet distance of "
    "a classifier's features, than one that is guided directly in two calls."
)
STEPS, SCALE = 250, 3.0


def evidence(seed: int, data: Path | None = None) -> Result:
    """Every student begins as the teacher and has the same number of steps; all are sampled with one scale."""
    teacher, real, told = digits_teacher(data, seed), digits(data), judge(data)

    def arm(guidance: str) -> Denoiser:
        torch.manual_seed(seed + 1)
        student = mlp(256, 3, shape=teacher.shape, classes=teacher.classes, extras=1)
        student.net.load_state_dict(teacher.net.state_dict(), strict=False)  # the rest begins at zero
        method = ConsistencyTTA(student, teacher, guidance=guidance, scale=SCALE)
        train(method, batches(real, seed, 128), STEPS)
        return student

    def right(model: object, sampler: object = None) -> float:
        return accuracy_of(told, *made(model, 2000, seed, sampler=sampler))

    variable, fixed, direct = (arm(g) for g in ("variable", "fixed", "direct"))
    guided = Guided(teacher, SCALE)
    return Result(
        metric="Frechet distance to the data in a classifier's features, one call",
        baseline=fid(direct, told, real, seed),
        method=fid(variable, told, real, seed),
        higher_is_better=False,
        versus="a student without guidance, guided directly when sampled",
        extra={
            "fixed guidance": fid(fixed, told, real, seed),
            "teacher, one guided step": fid(guided, told, real, seed, Ode(1)),
            "teacher, 50 guided steps": fid(guided, told, real, seed, Ode(50, "dpm2m")),
            "accuracy of variable, %": right(variable),
            "accuracy of fixed, %": right(fixed),
            "accuracy of direct, %": right(direct),
            "accuracy of the teacher in 50 guided steps, %": right(guided, Ode(50, "dpm2m")),
        },
    )
