"""GDD on a ring of eight modes: the same GAN from diffusion weights and from scratch; with the blocks frozen."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, distilled, points, ring_teacher, swd, world
from limbeck.methods.diffusion.gdd import GDD
from limbeck.models.denoiser import Denoiser
from limbeck.models.sampling import Ode
from limbeck.models.tiny_denoiser import mlp
from limbeck.run.evidence import Result

CLAIM = (
    "A GAN whose generator begins with a diffusion model's weights ends at less than half the sliced Wasserstein "
    "distance "
    "to the data that the same GAN ends at from scratch, after the same number of steps."
)
STEPS = 500


def evidence(seed: int, data: Path | None = None) -> Result:
    """The distance from scratch is divided by two, so that a gain above zero is the claim."""
    mixture, teacher = world(), ring_teacher(seed)
    real = points(mixture, seed=seed)

    def arm(start: Denoiser, **values: object) -> tuple[float, int]:
        torch.manual_seed(seed + 1)
        student = distilled(GDD, partial(mlp, 96, 3), start, batches(real, seed, 256), STEPS, 5e-4, **values)
        return swd(student, mixture, seed)

    torch.manual_seed(seed + 2)
    scratch = arm(mlp(96, 3))
    distance, covered = arm(teacher)
    return Result(
        metric="sliced Wasserstein distance to the data, one step",
        baseline=scratch[0] / 2,
        method=distance,
        higher_is_better=False,
        versus="half the distance of the same GAN from scratch",
        extra={
            "modes covered of 8": float(covered),
            "from scratch: modes covered of 8": float(scratch[1]),
            "with the blocks' layers frozen": arm(teacher, frozen=("first", "second"))[0],
            "teacher, 1 step": swd(teacher, mixture, seed, Ode(1))[0],
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
        },
    )
