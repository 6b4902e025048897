"""Progressive distillation on a ring of eight modes: sixteen steps halved to two, against the teacher in two steps."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, distilled, points, ring_teacher, swd, world
from limbeck.methods.diffusion.progressive_distillation import ProgressiveDistillation
from limbeck.models.sampling import Ode
from limbeck.run.evidence import Result

CLAIM = (
    "Halved from sixteen steps to two, a student comes at least four times nearer to the data, in sliced Wasserstein "
    "distance, than its teacher in two steps."
)
START, STEPS = 16, 2
UPDATES = 250


def evidence(seed: int, data: Path | None = None) -> Result:
    """The distance of the teacher's two steps is divided by four, so that a gain above zero is the claim."""
    mixture, teacher = world(), ring_teacher(seed)
    real = batches(points(mixture, seed=seed), seed, 256)

    torch.manual_seed(seed + 1)
    student = distilled(ProgressiveDistillation, lambda: teacher, teacher, real, UPDATES, start=START, end=STEPS)
    distance, covered = swd(student, mixture, seed)
    return Result(
        metric="sliced Wasserstein distance to the data, two steps",
        baseline=swd(teacher, mixture, seed, Ode(STEPS))[0] / 4,
        method=distance,
        higher_is_better=False,
        versus="a quarter of the teacher's distance in two steps",
        extra={
            "modes covered of 8": float(covered),
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
        },
    )
