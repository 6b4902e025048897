"""Imagine Flash on a ring of eight modes: three steps trained on the student's own states."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, points, ring_teacher, swd, train, world
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.imagine_flash import ImagineFlash
from limbeck.models.sampling import Ode
from limbeck.run.evidence import Result

CLAIM = (
    "Three steps trained by backward distillation come nearer to the data, in sliced Wasserstein distance, than the "
    "teacher's own three steps of the same solver."
)
STEPS = 500


def evidence(seed: int, data: Path | None = None) -> Result:
    """The student begins as the teacher."""
    mixture, teacher = world(), ring_teacher(seed)
    real = batches(points(mixture, seed=seed), seed, 128)

    def arm(**values: float) -> tuple[float, int]:
        torch.manual_seed(seed + 1)
        method = ImagineFlash(trainable(teacher), teacher, **values)  # type: ignore[arg-type]
        train(method, real, STEPS, lr=5e-4)
        return swd(method.student, mixture, seed)

    distance, covered = arm()
    return Result(
        metric="sliced Wasserstein distance to the data, three steps",
        baseline=swd(teacher, mixture, seed, Ode(3))[0],
        method=distance,
        higher_is_better=False,
        versus="the teacher's three Euler steps",
        extra={
            "modes covered of 8": float(covered),
            "without the discriminator": arm(gan=0.0)[0],
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
        },
    )
