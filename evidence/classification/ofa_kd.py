"""OFA-KD: a convolutional student of a mixer, with wrong labels."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from evidence._shared import accuracy, batches, images, train
from limbeck import Method
from limbeck.data.noise import with_label_noise
from limbeck.methods.classification.fitnets import FitNets
from limbeck.methods.classification.kd import KD
from limbeck.methods.classification.ofa_kd import OFAKD
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.tiny import cnn, mixer
from limbeck.run.evidence import Result

CLAIM = (
    "With 40 % wrong labels, a convolutional student that learns from an MLP-mixer of clean labels through exits on "
    "its stages (OFA-KD) is more accurate than the same student trained on those labels alone."
)
STEPS, NOISE = 300, 0.4


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same student, steps, data order and optimiser in every arm."""
    pair = images(data)
    shape, classes = pair.train.shape, pair.train.classes
    noisy = with_label_noise(pair.train, NOISE, seed)
    torch.manual_seed(seed)
    teacher = mixer(32, 2, shape=shape, classes=classes)
    train(Supervised(teacher), batches(pair.train, seed), 300)

    def score(make: partial[Method]) -> float:
        torch.manual_seed(1000 + seed)
        student = cnn(8, 16, 32, shape=shape, classes=classes)
        train(make(student), batches(noisy, seed), STEPS)
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
            "fitnets in one stage": score(partial(FitNets, teacher=teacher, variant="one_stage")),
            "teacher": accuracy(teacher, pair.test),
        },
    )
