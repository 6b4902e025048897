"""KD where labels are few: the teacher has seen the whole training set, the student ten images a class."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._shared import accuracy, batches, images, train
from limbeck import Method
from limbeck.methods.classification.kd import KD
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.tiny import cnn
from limbeck.run.evidence import Result

CLAIM = (
    "With ten labelled images a class, a student that also matches the softened probabilities of a teacher trained on "
    "the whole training set beats the same student trained on those labels alone."
)
STEPS, RATE, SHOTS = 600, 1e-2, 10


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same initialisation, data order, steps and optimiser in every arm."""
    pair = images(data)
    shape, classes = pair.train.shape, len(pair.train.classes)
    few = pair.train.limited(per_class=SHOTS, seed=seed)
    torch.manual_seed(seed)
    teacher = cnn(32, 64, shape=shape, classes=classes)
    train(Supervised(teacher), batches(pair.train, seed), STEPS)

    def arm(tau: float | None) -> float:
        torch.manual_seed(seed + 1)
        student = cnn(8, 16, shape=shape, classes=classes)
        method: Method = Supervised(student) if tau is None else KD(student, teacher, tau=tau)
        train(method, batches(few, seed), STEPS, lr=RATE)
        return accuracy(student, pair.test)

    return Result(
        metric="test accuracy, %",
        baseline=arm(None),
        method=arm(4.0),
        higher_is_better=True,
        versus="the same student on the labels alone",
        extra={"teacher, %": accuracy(teacher, pair.test), "kd at tau 1, %": arm(1.0)},
    )
