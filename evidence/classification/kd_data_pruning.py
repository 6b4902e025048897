"""A small random part of the data: the teacher has seen all of them, the student a twentieth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from evidence._shared import accuracy, batches, images, train
from limbeck.core.method import Method, Setting
from limbeck.core.modules import freeze
from limbeck.methods.classification.kd_data_pruning import KDDataPruning
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.tiny import cnn
from limbeck.run.evidence import Result

CLAIM = (
    "Of a training set pruned at random to a twentieth, a student that learns from a teacher of the same size, trained "
    "on all of it, reaches a higher accuracy than one that learns the same samples' labels."
)
STEPS, RATE, KEEP = 400, 1e-2, 0.05


def evidence(seed: int, data: Path | None = None) -> Result:
    """Every arm is the whole procedure: same first weights, same random subset, same steps whatever is kept."""
    pair = images(data)
    shape, classes = pair.train.shape, len(pair.train.classes)
    torch.manual_seed(seed)
    teacher = cnn(16, 32, shape=shape, classes=classes)
    train(Supervised(teacher), batches(pair.train, seed), STEPS)
    freeze(teacher)

    def arm(**values: Any) -> float:
        def fit(method: Method, *, name: str = "student", data: Any = None, steps: int = STEPS) -> None:
            train(method, batches(pair.train, seed) if data is None else data, steps, lr=RATE)

        def student() -> nn.Module:
            return cnn(16, 32, shape=shape, classes=classes)

        torch.manual_seed(seed + 1)
        setting = Setting(student, [teacher], batches(pair.train, seed), STEPS, fit)
        return accuracy(KDDataPruning.distil(setting, {"keep": KEEP, "scorers": 3, **values}), pair.test)

    return Result(
        metric="test accuracy, %",
        baseline=arm(alpha=0.0),
        method=arm(),
        higher_is_better=True,
        versus="the same student on the labels of the same samples",
        extra={
            "hardest by EL2N, labels alone": arm(score="el2n", alpha=0.0),
            "hardest by EL2N, with the teacher": arm(score="el2n"),
            "most forgotten, with the teacher": arm(score="forgetting", scorers=1),
            "all data, labels alone": arm(keep=1.0, alpha=0.0),
            "teacher": accuracy(teacher, pair.test),
        },
    )
