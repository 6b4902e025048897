"""Invertible consistency on a ring of eight modes: to noise and back, four steps each, with and without round trips."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from evidence._diffusion import TEACHER, batches, points, ring_teacher, swd, train, world
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.icd import ICD
from limbeck.models.sampling import Ode, solve
from limbeck.run.evidence import Result

CLAIM = (
    "In four steps to noise and four back, an encoder and a decoder tied by round trips return points at most half as "
    "far from where they were as deterministic steps of the teacher do, in root mean square."
)
STEPS = 180


def evidence(seed: int, data: Path | None = None) -> Result:
    """The teacher's distance is halved, so that a gain above zero is the claim."""
    mixture, teacher = world(), ring_teacher(seed)
    real = points(mixture, seed=seed)
    x, _ = mixture.sample(2000, torch.Generator().manual_seed(999 + seed))

    def arm(preserve: float) -> ICD:
        torch.manual_seed(seed + 1)
        method = ICD(trainable(teacher), teacher, scales=(0.0,), preserve=preserve)
        train(method, batches(real, seed, 256), STEPS if preserve else 2 * STEPS)
        return method

    def lost(back: Tensor) -> float:
        return float((back - x).square().sum(1).mean().sqrt())

    tied, loose = arm(1.5), arm(0.0)
    rising = [0.02, 0.26, 0.52, 0.78, 1.0]
    with torch.no_grad():
        noise = solve(teacher, x, rising)[-1]
        inverted = solve(teacher, noise, [*reversed(rising[1:]), 0.0])[-1]
    distance, covered = swd(tied.student, mixture, seed)
    return Result(
        metric="distance of points that went to noise and back, root mean square",
        baseline=lost(inverted) / 2,
        method=lost(tied.student.generate(tied.encode(x))),
        higher_is_better=False,
        versus="half of what the teacher's four and four deterministic steps lose",
        extra={
            "without round trips, as many updates": lost(loose.student.generate(loose.encode(x))),
            "sliced Wasserstein distance of samples, 4 steps": distance,
            "modes covered of 8": float(covered),
            "teacher, 4 steps": swd(teacher, mixture, seed, Ode(4))[0],
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
        },
    )
