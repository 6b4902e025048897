"""Few-step SiD on a ring of eight modes: two steps, against the teacher's same two and against one step."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, points, ring_teacher, swd, train, world
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.sid_few_step import SiDFewStep
from limbeck.run.evidence import Result

CLAIM = (
    "Without any data, a generator of two steps trained by score identity distillation on the mixture of its steps has "
    "at most half the sliced Wasserstein distance of its teacher in the same two steps, and at most 0.8 times that of "
    "a generator of one step after as many updates."
)
STEPS = 400


def evidence(seed: int, data: Path | None = None) -> Result:
    """Both generators begin as the teacher, and an update is one of each network; the nearer bound is the baseline."""
    mixture, teacher = world(), ring_teacher(seed)
    real = points(mixture, seed=seed)

    def arm(count: int) -> SiDFewStep:
        torch.manual_seed(seed + 1)
        method = SiDFewStep(trainable(teacher), teacher, steps=count)
        train(method, batches(real, seed, 128), STEPS, lr=1e-3)
        return method

    two, one = arm(2), arm(1)
    distance, covered = swd(two.student, mixture, seed)
    single, _ = swd(one.student, mixture, seed)
    undistilled, _ = swd(teacher, mixture, seed, two.student.sampler)
    return Result(
        metric="sliced Wasserstein distance to the data, two steps",
        baseline=min(0.5 * undistilled, 0.8 * single),
        method=distance,
        higher_is_better=False,
        versus="half the distance of the teacher's same two steps, or 0.8 times that of one step if it is less",
        extra={
            "modes covered of 8": float(covered),
            "one step": single,
            "teacher, the same two steps": undistilled,
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
        },
    )
