"""MLCM on a ring of eight modes: consistency on the teacher's own states, without data, sampled in four steps."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, points, ring_teacher, swd, train, world
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.mlcm import MLCM
from limbeck.models.sampling import FewStep, Ode
from limbeck.run.evidence import Result

CLAIM = (
    "On the teacher's own states, without any data, consistency within eight, four and two segments in turn brings a "
    "student in four deterministic steps nearer to the data, in sliced Wasserstein distance, than within one."
)
STEPS = 300
FOUR, TWO = FewStep((1.0, 0.75, 0.5, 0.25), 0.0), FewStep((1.0, 0.5), 0.0)


def evidence(seed: int, data: Path | None = None) -> Result:
    """Both arms have the same states and as many updates."""
    mixture, teacher = world(), ring_teacher(seed)
    real = points(mixture, seed=seed)

    def arm(segments: tuple[int, ...]) -> MLCM:
        torch.manual_seed(seed + 1)
        method = MLCM(trainable(teacher), teacher, segments=segments, guidance=1.0, trajectory=16)
        train(method, batches(real, seed, 64), STEPS)  # 256 states a step; the data's positions are not read
        return method

    student, whole = arm((8, 4, 2)).student, arm((1,)).student
    distance, covered = swd(student, mixture, seed, FOUR)
    return Result(
        metric="sliced Wasserstein distance to the data, four steps",
        baseline=swd(whole, mixture, seed, FOUR)[0],
        method=distance,
        higher_is_better=False,
        versus="one segment from the start, on the same states",
        extra={
            "modes covered of 8": float(covered),
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
            "teacher, 4 steps": swd(teacher, mixture, seed, Ode(4))[0],
            "2 steps": swd(student, mixture, seed, TWO)[0],
            "one segment from the start, 2 steps": swd(whole, mixture, seed, TWO)[0],
            "teacher, 2 steps": swd(teacher, mixture, seed, Ode(2))[0],
        },
    )
