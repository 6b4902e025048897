"""MEKD with hard answers: the distance between generated images beside the divergence alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from evidence._shared import accuracy, batches, images, train
from limbeck.methods.classification.mekd import MEKD
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.load import load_classifier
from limbeck.run.evidence import Result

CLAIM = (
    "With a teacher that answers queries with a class alone, a small network that sees no label and queries generated "
    "images only is more accurate with MEKD's image distance than with the divergence alone on images of the same "
    "generator."
)
STEPS = 800


def evidence(seed: int, data: Path | None = None) -> Result:
    """Every arm draws the same codes and makes the same stage 1; the method reads no label."""
    pair = images(data)

    def fresh(reference: str) -> nn.Module:
        return load_classifier(reference, shape=pair.train.shape, classes=pair.train.classes, seed=seed)

    teacher = train(Supervised(fresh("cnn-16-32")), batches(pair.train, seed), 300).student

    def arm(*, hard: bool = True, image: float = 1.0, beta: float = 1.0) -> float:
        torch.manual_seed(seed)
        method = MEKD(fresh("mlp-32"), teacher, hard=hard, image=image, beta=beta)
        return accuracy(train(method, batches(pair.train, seed), STEPS).student, pair.test)

    return Result(
        metric="test accuracy, %",
        baseline=arm(image=0.0),
        method=arm(),
        higher_is_better=True,
        versus="the same student and generator with the divergence alone",
        extra={
            "teacher, %": accuracy(teacher, pair.test),
            "image distance alone, %": arm(beta=0.0),
            "probabilities, %": arm(hard=False),
            "probabilities, divergence alone, %": arm(hard=False, image=0.0),
        },
    )
