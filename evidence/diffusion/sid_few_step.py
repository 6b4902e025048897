"""Few-step SiD on a ring of eight modes: four steps against one, after as many updates."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, points, ring_teacher, swd, train, world
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.sid_few_step import SiDFewStep
from limbeck.run.evidence import Result

CLAIM = (
    "Without any data, a generator of four steps trained by score identity distillation on the mixture of its steps "
    "comes nearer to the data than one of a single step after as many updates: at most 0.8 times the sliced "
    "Wasserstein distance."
)
STEPS = 250


def evidence(seed: int, data: Path | None = None) -> Result:
    """Both generators begin as the teacher, and an update is one of each network."""
    mixture, teacher = world(), ring_teacher(seed)
    real = points(mixture, seed=seed)

    def arm(count: int) -> SiDFewStep:
        torch.manual_seed(seed + 1)
        method = SiDFewStep(trainable(teacher), teacher, steps=count)
        train(method, batches(real, seed, 128), STEPS, lr=1e-3)
        return method

    four, one = arm(4), arm(1)
    distance, covered = swd(four.student, mixture, seed)
    single, _ = swd(one.student, mixture, seed)
    return Result(
        metric="sliced Wasserstein distance to the data",
        baseline=0.8 * single,
        method=distance,
        higher_is_better=False,
        versus="0.8 times the distance of one step after as many updates",
        extra={
            "modes covered of 8": float(covered),
            "teacher, the same four steps": swd(teacher, mixture, seed, four.student.sampler)[0],
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
        },
    )
