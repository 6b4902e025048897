"""Norm and direction on top of KD, for a student whose features are shorter than its teacher's."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import fmean

import torch

from evidence._shared import accuracy, batches, images, train
from limbeck.core.modules import Taps
from limbeck.data.images import ImageSet
from limbeck.methods.classification._shared import class_means
from limbeck.methods.classification.nd_loss import NDLoss
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.classifier import Classifier
from limbeck.models.tiny import cnn
from limbeck.run.evidence import Result

CLAIM = (
    "For a small convolutional student, whose features KD leaves shorter than those of a teacher of equal width, KD "
    "with the norm and direction term (KD++) lengthens the features and is more accurate than KD alone."
)
STEPS, STARTS = 400, 4


@torch.no_grad()
def length(model: Classifier, data: ImageSet) -> float:
    """Mean norm of the penultimate feature."""
    x, _ = data.take(torch.arange(min(len(data), 1000)))
    return float(Taps(model.head + ":in")(model.eval(), x)[1][0].norm(dim=1).mean())


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same students, data order, steps and optimiser in every arm."""
    pair = images(data)
    shape, classes = pair.train.shape, pair.train.classes
    torch.manual_seed(seed)
    teacher = cnn(16, 32, 64, shape=shape, classes=classes)
    train(Supervised(teacher), batches(pair.train, seed), 300)
    means = class_means(teacher, batches(pair.train, seed).plain())

    def arm(make: partial[NDLoss] | type[Supervised]) -> tuple[float, float]:
        """Mean test accuracy, %, and mean feature norm of some fresh students."""
        accuracies, norms = list[float](), list[float]()
        for start in range(STARTS):
            torch.manual_seed(STARTS * seed + start)
            student = cnn(4, 8, 64, shape=shape, classes=classes)
            train(make(student), batches(pair.train, seed), STEPS)
            accuracies.append(accuracy(student, pair.test))
            norms.append(length(student, pair.test))
        return fmean(accuracies), fmean(norms)

    plus, norm_plus = arm(partial(NDLoss, teacher=teacher, means=means))
    plain, norm_plain = arm(partial(NDLoss, teacher=teacher, means=means, nd=0.0))
    return Result(
        metric="test accuracy, %",
        baseline=plain,
        method=plus,
        higher_is_better=True,
        versus="the same student with KD alone",
        extra={
            "labels alone": arm(Supervised)[0],
            "teacher": accuracy(teacher, pair.test),
            "feature norm with KD": norm_plain,
            "feature norm with KD++": norm_plus,
            "feature norm of the teacher": length(teacher, pair.test),
        },
    )
