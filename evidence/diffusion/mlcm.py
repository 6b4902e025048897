"""MLCM on a ring of eight modes: consistency on the teacher's own states, without data, sampled in two steps."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, points, ring_teacher, swd, train, world
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.mlcm import MLCM
from limbeck.models.sampling import FewStep, Ode
from limbeck.run.evidence import Result

CLAIM = (
    "Without any data, a student of multistep consistency comes in two steps at least three times nearer to the data, "
    "in sliced Wasserstein distance, than its teacher in two steps."
)
STEPS = 400
TWO = FewStep((1.0, 0.5), 0.0)


def evidence(seed: int, data: Path | None = None) -> Result:
    """The distance of the teacher's two steps is divided by three, so that a gain above zero is the claim."""
    mixture, teacher = world(), ring_teacher(seed)
    real = points(mixture, seed=seed)

    def arm(segments: tuple[int, ...]) -> MLCM:
        torch.manual_seed(seed + 1)
        method = MLCM(trainable(teacher), teacher, segments=segments, guidance=1.0, trajectory=24)
        train(method, batches(real, seed, 64), STEPS)  # 256 states a step; the data's positions are not read
        return method

    student, whole = arm((8, 4, 2)).student, arm((1,)).student
    distance, covered = swd(student, mixture, seed, TWO)
    return Result(
        metric="sliced Wasserstein distance to the data, two steps",
        baseline=swd(teacher, mixture, seed, Ode(2))[0] / 3,
        method=distance,
        higher_is_better=False,
        versus="a third of the teacher's distance in two steps",
        extra={
            "modes covered of 8": float(covered),
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
            "4 steps": swd(student, mixture, seed)[0],
            "teacher, 4 steps": swd(teacher, mixture, seed, Ode(4))[0],
            "one segment from the start, 2 steps": swd(whole, mixture, seed, TWO)[0],
            "one segment from the start, 4 steps": swd(whole, mixture, seed)[0],
        },
    )
