"""UNIC: one encoder of two teachers that know different things, against the better of the two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from evidence._shared import batches, images, train
from limbeck.core.modules import Taps
from limbeck.data.images import ImageSet
from limbeck.methods.classification.supervised import Supervised
from limbeck.methods.classification.unic import UNIC
from limbeck.models.classifier import Classifier
from limbeck.models.tiny import cnn
from limbeck.run.evidence import Result

CLAIM = (
    "Two teachers know complementary groupings of the classes (a class's parity, and which pair it is in). A student "
    "of their size that distils both without labels (UNIC) has features on which a linear classifier of all classes is "
    "more accurate than on those of the better teacher."
)
STEPS = 300


@torch.no_grad()
def features(encoders: list[nn.Module], data: ImageSet) -> Tensor:
    """Penultimate features (N, D) of a whole set, side by side."""
    x, _ = data.take(torch.arange(len(data)))
    return torch.cat([Taps(e.head + ":in")(e.eval(), x)[1][0] for e in encoders], 1)


def evidence(seed: int, data: Path | None = None) -> Result:
    """Linear probes of frozen encoders: logistic regression on standardised features of the training set."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pair = images(data)
    train_set, shape = pair.train, pair.train.shape

    def fresh(number: int, classes: int = len(train_set.classes)) -> Classifier:
        torch.manual_seed(1000 * number + seed)
        return cnn(8, 16, shape=shape, classes=classes)

    def teacher(number: int, labels: Tensor) -> nn.Module:
        grouped = replace(train_set, labels=labels, classes=tuple(map(str, range(int(labels.max()) + 1))))
        return train(Supervised(fresh(number, len(grouped.classes))), batches(grouped, seed), STEPS).student

    def probe(*encoders: nn.Module) -> float:
        """Test accuracy, %."""
        linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        linear.fit(features(list(encoders), train_set).numpy(), train_set.labels.numpy())
        return 100 * float(linear.score(features(list(encoders), pair.test).numpy(), pair.test.labels.numpy()))

    def student(teachers: list[nn.Module], **values: float) -> float:
        return probe(train(UNIC(fresh(3), nn.ModuleList(teachers), **values), batches(train_set, seed), STEPS).student)

    teachers = [teacher(1, train_set.labels % 2), teacher(2, train_set.labels // 2)]
    alone = [probe(t) for t in teachers]
    return Result(
        metric="test accuracy of a linear probe, %",
        baseline=max(alone),
        method=student(teachers),
        higher_is_better=True,
        versus="the better of the two teachers",
        extra={
            "the other teacher": min(alone),
            "both teachers side by side": probe(*teachers),
            "student of the pairs alone": student(teachers[1:]),
            "no dropping": student(teachers, drop=0.0),
            "no standardising": student(teachers, momentum=0.0),
            "untrained encoder": probe(fresh(3)),
        },
    )
