"""NKD where labels are few, beside KD and, without a teacher, USKD."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from evidence._shared import accuracy, batches, images, train
from limbeck import Method
from limbeck.methods.classification.kd import KD
from limbeck.methods.classification.nkd_uskd import NKD_USKD
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.load import load_classifier
from limbeck.run.evidence import Result

CLAIM = (
    "With ten labelled images a class, a student that learns by NKD from a teacher trained on the whole training set "
    "beats the same student trained on those labels alone."
)
STEPS, RATE, SHOTS = 600, 1e-2, 10


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same initialisation, data order, steps and optimiser in every arm; tau and gamma are the code's for CIFAR-100."""
    torch.manual_seed(seed)  # of the helper networks
    pair = images(data)
    few = pair.train.limited(per_class=SHOTS, seed=seed)

    def fresh(reference: str) -> nn.Module:
        return load_classifier(reference, shape=pair.train.shape, classes=pair.train.classes, seed=seed)

    teacher = train(Supervised(fresh("cnn-32-64")), batches(pair.train, seed), 400).student

    def arm(method: Method) -> float:
        return accuracy(train(method, batches(few, seed), STEPS, lr=RATE).student, pair.test)

    return Result(
        metric="test accuracy, %",
        baseline=arm(Supervised(fresh("cnn-8-16"))),
        method=arm(NKD_USKD(fresh("cnn-8-16"), teacher, tau=3.0, gamma=3.5)),
        higher_is_better=True,
        versus="the same student on the labels alone",
        extra={
            "teacher, %": accuracy(teacher, pair.test),
            "kd, %": arm(KD(fresh("cnn-8-16"), teacher)),
            "uskd, no teacher, %": arm(NKD_USKD(fresh("cnn-8-16"), variant="uskd")),
        },
    )
