"""Hints let a thin deep network train that plain gradient descent leaves stuck."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import fmean

import torch

from evidence._shared import accuracy, batches, images, train
from limbeck import Method, fit
from limbeck.core.schedule import Cosine
from limbeck.methods.classification.fitnets import FitNets
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.tiny import mlp
from limbeck.run.evidence import Result

CLAIM = (
    "A thin deep network (8 layers of 16, no normalisation, plain SGD) becomes more accurate when the first half of "
    "its steps learns the middle layer of a wide shallow teacher (FitNets) than when all steps distil its outputs."
)
STEPS, STARTS = 1200, 4


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same students, data order, steps and optimiser in every arm."""
    pair = images(data)
    shape, classes = pair.train.shape, pair.train.classes
    torch.manual_seed(seed)
    teacher = mlp(64, 64, 64, shape=shape, classes=classes)
    train(Supervised(teacher), batches(pair.train, seed), 300)

    def score(make: partial[Method]) -> float:
        """Mean test accuracy, %, of some fresh students: any one may get stuck."""
        found: list[float] = []
        for start in range(STARTS):
            torch.manual_seed(STARTS * seed + start)
            student = mlp(*[16] * 8, shape=shape, classes=classes)
            optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
            fit(make(student), batches(pair.train, seed), optimizer, steps=STEPS, lr=Cosine())
            found.append(accuracy(student, pair.test))
        return fmean(found)

    # The mean over the hint, as re-implementations take it: SGD at one rate for both stages diverges on the sum.
    hints = partial(FitNets, teacher=teacher, reduction="mean")
    return Result(
        metric="test accuracy, %",
        baseline=score(partial(FitNets, teacher=teacher, hint_share=0.0)),
        method=score(hints),
        higher_is_better=True,
        versus="the same student and steps without hints: stage 2 alone",
        extra={"labels alone": score(partial(Supervised)), "teacher": accuracy(teacher, pair.test)},
    )
