"""OFA-KD: a transformer with few labels learns from a convolutional teacher."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from evidence._shared import accuracy, images, train
from limbeck import Method
from limbeck.data.batches import Batches
from limbeck.data.images import ImageSet
from limbeck.methods.classification.kd import KD
from limbeck.methods.classification.ofa_kd import OFAKD
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.tiny import cnn, vit
from limbeck.run.evidence import Result

CLAIM = (
    "With twenty labelled images a class under cropping and rotation, a vision transformer that learns from a "
    "convolutional network of the whole training set through exits on its stages (OFA-KD) is more accurate than the "
    "same student trained on labels alone."
)
STEPS, SHOTS = 300, 20


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same student, steps, data order and optimiser in every arm."""
    pair = images(data)
    shape, classes = pair.train.shape, pair.train.classes
    few = pair.train.limited(per_class=SHOTS, seed=seed)

    def augmented(data: ImageSet) -> Batches:
        return Batches(data, 64, seed=seed, augment="crop+rotate")

    torch.manual_seed(seed)
    teacher = cnn(16, 32, shape=shape, classes=classes)
    train(Supervised(teacher), augmented(pair.train), 400)

    def score(make: partial[Method]) -> float:
        torch.manual_seed(1000 + seed)
        student = vit(32, 2, shape=shape, classes=classes)
        train(make(student), augmented(few), STEPS)
        return accuracy(student, pair.test)

    return Result(
        metric="test accuracy, %",
        baseline=score(partial(Supervised)),
        method=score(partial(OFAKD, teacher=teacher)),
        higher_is_better=True,
        extra={
            "variant code": score(partial(OFAKD, teacher=teacher, variant="code")),
            "no branches": score(partial(OFAKD, teacher=teacher, ofa=0.0)),
            "kd": score(partial(KD, teacher=teacher)),
            "teacher": accuracy(teacher, pair.test),
        },
    )
