"""Relations of a wide teacher make a small embedding retrieve classes it has never seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from evidence._shared import batches, images, train
from limbeck import Clock, Method
from limbeck.core.modules import Taps
from limbeck.data.batches import Images
from limbeck.data.images import ImageSet
from limbeck.methods.classification.rkd import RKD
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.classifier import Classifier
from limbeck.models.tiny import cnn, mlp
from limbeck.run.evidence import Result

CLAIM = (
    "An 8-dimensional embedding that learns only a teacher's distances and angles (RKD-DA, no labels) retrieves "
    "classes that neither network was trained on better than the same embedding trained on labels."
)
STEPS = 400


class Triplet(Method):
    """The teacher's loss and the paper's baseline: the triplet loss on unit embeddings, over violating triplets."""

    student: Classifier

    def __post_init__(self) -> None:
        self.tap = Taps(self.student.head + ":in")

    def loss(self, batch: Images, clock: Clock) -> Tensor:
        _, [f] = self.tap(self.student, batch.x)
        f = F.normalize(f)
        squared = (2 - 2 * f @ f.T).clamp_min(0)
        same = batch.y[:, None] == batch.y
        triplets = (same & ~torch.eye(len(f), dtype=torch.bool))[:, :, None] & ~same[:, None, :]
        hinge = F.relu(squared[:, :, None] - squared[:, None, :] + 0.2)[triplets]  # margin 0.2, as in the paper
        return hinge.sum() / (hinge > 0).sum().clamp_min(1)


def only(data: ImageSet, classes: list[int]) -> ImageSet:
    """The images of some classes, numbered anew."""
    kept = data.subset(torch.isin(data.labels, torch.tensor(classes)).nonzero()[:, 0])
    labels = torch.searchsorted(torch.tensor(classes), kept.labels)
    return replace(kept, labels=labels, classes=tuple(data.classes[k] for k in classes))


@torch.no_grad()
def recall(model: Classifier, data: ImageSet) -> float:
    """Recall@1, %: how often an image's nearest other image is of its class."""
    x, y = data.take(torch.arange(min(len(data), 4000)))
    _, [f] = Taps(model.head + ":in")(model.eval(), x)
    nearest = torch.cdist(f, f).fill_diagonal_(torch.inf).argmin(1)
    return 100.0 * float((y[nearest] == y).float().mean())


def evidence(seed: int, data: Path | None = None) -> Result:
    """Trained on the first half of the classes, measured on test images of the others."""
    pair = images(data)
    half = len(pair.train.classes) // 2
    seen = only(pair.train, list(range(half)))
    unseen = only(pair.test, list(range(half, len(pair.test.classes))))
    torch.manual_seed(seed)
    teacher = cnn(32, 64, shape=seen.shape, classes=seen.classes)
    train(Triplet(teacher), batches(seen, seed), STEPS)

    def fresh() -> Classifier:
        torch.manual_seed(1000 + seed)
        return mlp(32, 8, shape=seen.shape, classes=seen.classes)

    triplet, labels, relations = fresh(), fresh(), fresh()
    train(Triplet(triplet), batches(seen, seed), STEPS)
    train(Supervised(labels), batches(seen, seed), STEPS)
    train(RKD(relations, teacher, ce=0.0, distance=1.0, angle=2.0), batches(seen, seed), STEPS)
    return Result(
        metric="recall@1 on unseen classes, %",
        baseline=recall(labels, unseen),
        method=recall(relations, unseen),
        higher_is_better=True,
        versus="the same student trained on labels with cross-entropy",
        extra={
            "triplet loss": recall(triplet, unseen),
            "teacher": recall(teacher, unseen),
            "untrained": recall(fresh(), unseen),
        },
    )
