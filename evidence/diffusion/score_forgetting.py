"""Score forgetting on a ring of four classes, two modes each: the first is to be made as one of the others."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from evidence._diffusion import TEACHER, batches, made, points, ring_teacher, swd, train, world
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.score_forgetting import ScoreForgetting
from limbeck.run.evidence import Result

CLAIM = (
    "Asked for the class it is to forget, a generator distilled without data makes that class in less than 5 % of its "
    "samples, where its teacher makes nothing else."
)
STEPS = 500


def evidence(seed: int, data: Path | None = None) -> Result:
    """A sample is of the class whose mode is nearest. The forgotten class weighs as much as the others."""
    mixture, teacher = world(classes=4), ring_teacher(seed, 4)
    torch.manual_seed(seed + 1)
    method = ScoreForgetting(trainable(teacher), teacher, alpha=1.0, forget_weight=1.0)
    train(method, batches(points(mixture, seed=seed), seed, 128), STEPS, lr=1e-3)

    def shares(x: Tensor, y: Tensor | None) -> tuple[float, float]:
        """How many of what is asked for as class 0 are that, and how many of the others are what was asked for, %."""
        assert y is not None
        right = mixture.labels[torch.cdist(x, mixture.means).argmin(1)] == y
        return 100 * float(right[y == 0].float().mean()), 100 * float(right[y > 0].float().mean())

    forgotten, others = shares(*made(method.student, seed=seed))
    before, kept = shares(*made(teacher, seed=seed, sampler=TEACHER))
    return Result(
        metric="samples of the forgotten class among those asked for, %",
        baseline=5.0,
        method=forgotten,
        higher_is_better=False,
        versus="the bound of the claim",
        extra={
            "teacher, forgotten class, %": before,
            "other classes made as asked, %": others,
            "teacher, other classes made as asked, %": kept,
            "teacher, one class in 50 steps: distance": swd(teacher, mixture, seed, TEACHER)[0],
        },
    )
