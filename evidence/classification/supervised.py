"""The control learns: a small convolutional network against a linear one, both trained on the same labels."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._shared import accuracy, batches, images, train
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.tiny import cnn, mlp
from limbeck.run.evidence import Result

CLAIM = (
    "Trained on labels alone, a small convolutional network beats multinomial logistic regression, under one recipe."
)
STEPS = 400


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same data in the same order, same steps, same optimiser."""
    pair = images(data)
    shape, classes = pair.train.shape, len(pair.train.classes)

    def arm(smoothing: float, *, linear: bool) -> float:
        torch.manual_seed(seed)
        student = mlp(shape=shape, classes=classes) if linear else cnn(16, 32, shape=shape, classes=classes)
        train(Supervised(student, smoothing=smoothing), batches(pair.train, seed), STEPS)
        return accuracy(student, pair.test)

    return Result(
        metric="test accuracy, %",
        baseline=arm(0.0, linear=True),
        method=arm(0.0, linear=False),
        higher_is_better=True,
        versus="multinomial logistic regression by gradient descent",
        extra={"with label smoothing 0.1, %": arm(0.1, linear=False)},
    )
