"""FreeFlow on a ring of eight modes: the teacher's flow learnt from noise alone, with the corrector and without."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, points, ring_teacher, swd, train, world
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.freeflow import FreeFlow
from limbeck.models.sampling import Ode
from limbeck.run.evidence import Result

CLAIM = (
    "From noise alone, with no sample of the data, a one-step student comes at least five times nearer to the data, in "
    "sliced Wasserstein distance, than its teacher sampled in one step."
)
STEPS = 300


def evidence(seed: int, data: Path | None = None) -> Result:
    """The distance of the teacher's one step is divided by five, so that a gain above zero is the claim."""
    mixture, teacher = world(), ring_teacher(seed)
    real = batches(points(mixture, seed=seed), seed, 128)  # only their shape is read

    def arm(steps: int, **values: float) -> tuple[float, int]:
        torch.manual_seed(seed + 1)
        method = FreeFlow(trainable(teacher), teacher, **values)  # type: ignore[arg-type]
        train(method, real, steps, lr=2e-3)
        return swd(method.student, mixture, seed)

    distance, covered = arm(STEPS)
    return Result(
        metric="sliced Wasserstein distance to the data, one step",
        baseline=swd(teacher, mixture, seed, Ode(1))[0] / 5,
        method=distance,
        higher_is_better=False,
        versus="a fifth of the distance of the teacher in one step",
        extra={
            "modes covered of 8": float(covered),
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
            "without the corrector": arm(STEPS, corrector=0.0)[0],
        },
    )
