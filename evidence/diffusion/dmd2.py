"""DMD2 on a ring of eight modes: a one-step generator that begins as its teacher; five critic steps to one, and one."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, points, ring_teacher, swd, train, world
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.dmd2 import DMD2
from limbeck.models.sampling import Ode
from limbeck.run.evidence import Result

CLAIM = (
    "A one-step generator trained by distribution matching with a discriminator comes at least five times nearer to "
    "the data, in sliced Wasserstein distance, than its teacher sampled in one step."
)
GENERATOR_STEPS, RATIO = 250, 5


def evidence(seed: int, data: Path | None = None) -> Result:
    """The distance of the teacher's one step is divided by five, so that a gain above zero is the claim."""
    mixture, teacher = world(), ring_teacher(seed)
    real = points(mixture, seed=seed)

    def arm(ratio: int) -> tuple[float, int]:
        torch.manual_seed(seed + 1)
        method = DMD2(trainable(teacher), teacher, ratio=ratio)
        train(method, batches(real, seed, 256), GENERATOR_STEPS * ratio, lr=5e-4)
        return swd(method.student, mixture, seed)

    distance, covered = arm(RATIO)
    return Result(
        metric="sliced Wasserstein distance to the data, one step",
        baseline=swd(teacher, mixture, seed, Ode(1))[0] / 5,
        method=distance,
        higher_is_better=False,
        versus="a fifth of the distance of the teacher in one step",
        extra={
            "modes covered of 8": float(covered),
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
            "one critic step to one of the generator": arm(1)[0],
        },
    )
