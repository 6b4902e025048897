"""Consistent and patient: FunMatch against a fixed teacher, whose targets are of the clean image, on few images."""

from __future__ import annotations

from dataclasses import KW_ONLY
from pathlib import Path

import torch
from torch import Tensor, nn

from evidence._shared import accuracy, images, train
from limbeck import Clock, Method, freeze
from limbeck.data.batches import Batches, Images
from limbeck.losses.divergence import distil_kl
from limbeck.methods.classification.funmatch import FunMatch
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.load import load_classifier
from limbeck.run.evidence import Result

CLAIM = (
    "Trained long on ten unlabelled images a class with random shifts, a student that sees the teacher's own mixed "
    "pixels beats one that learns the teacher's fixed answers on the clean images."
)
LONG, SHORT, RATE, SHOTS = 1200, 150, 1e-2, 10


class Views(Method):
    """KD without labels or mixing: the teacher sees what the batch says."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Images, clock: Clock) -> Tensor:
        with torch.no_grad():
            t = self.teacher(batch.teacher_x)
        return distil_kl(self.student(batch.x), t, 1.0).mean()


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same initialisation, images, optimiser and steps in every arm."""
    pair = images(data)
    few = pair.train.limited(per_class=SHOTS, seed=seed)

    def fresh(reference: str) -> nn.Module:
        return load_classifier(reference, shape=pair.train.shape, classes=pair.train.classes, seed=seed)

    torch.manual_seed(seed)  # of shifts and mixing
    shifts = Batches(pair.train, 64, seed=seed, augment="shift")  # the teacher must know the views it is asked about
    teacher = train(Supervised(fresh("cnn-32-64")), shifts, 400).student

    def arm(kind: type[Method], view: str, steps: int) -> float:
        torch.manual_seed(seed)
        data = Batches(few, 64, seed=seed, augment="shift", teacher_view=view)
        return accuracy(train(kind(fresh("cnn-8-16"), teacher), data, steps, lr=RATE).student, pair.test)

    return Result(
        metric="test accuracy, %",
        baseline=arm(Views, "clean", LONG),
        method=arm(FunMatch, "same", LONG),
        higher_is_better=True,
        versus="fixed targets from the clean images, same steps",
        extra={
            "teacher, %": accuracy(teacher, pair.test),
            "fixed targets, an eighth of the steps, %": arm(Views, "clean", SHORT),
            "funmatch, an eighth of the steps, %": arm(FunMatch, "same", SHORT),
            "same view without mixing, %": arm(Views, "same", LONG),
            "independent views, %": arm(Views, "separate", LONG),
        },
    )
