"""MEAL V2: fine-tuning a supervised student on an ensemble's soft labels against training on with labels."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from evidence._shared import accuracy, batches, images, train
from limbeck import Method
from limbeck.methods.classification.kd import KD
from limbeck.methods.classification.meal_v2 import MEALV2
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.load import load_classifier
from limbeck.run.evidence import Result

CLAIM = (
    "With ten labelled images a class, a supervised student gains more from fine-tuning on the averaged probabilities "
    "of three teachers trained on the whole training set than from as many more steps on its labels."
)
WARM, STEPS, RATE, SHOTS = 300, 300, 1e-2, 10


def evidence(seed: int, data: Path | None = None) -> Result:
    """Every arm starts from the same supervised student, but the one that says so; same data order and optimiser."""
    torch.manual_seed(seed)  # of the helper networks
    pair = images(data)
    few = pair.train.limited(per_class=SHOTS, seed=seed)

    def fresh(reference: str, number: int = 0) -> nn.Module:
        return load_classifier(reference, shape=pair.train.shape, classes=pair.train.classes, seed=10 * seed + number)

    teachers = [
        train(Supervised(fresh("cnn-16-32", n)), batches(pair.train, 10 * seed + n), 300).student for n in range(3)
    ]
    start = train(Supervised(fresh("cnn-8-16")), batches(few, seed), WARM, lr=RATE).student

    def arm(method: Method, steps: int = STEPS) -> float:
        return accuracy(train(method, batches(few, seed + 1), steps, lr=RATE).student, pair.test)

    def meal(count: int = 3, student: nn.Module = start, adversarial: float = 1.0) -> Method:
        return MEALV2(copy.deepcopy(student), nn.ModuleList(teachers[:count]), adversarial=adversarial)

    return Result(
        metric="test accuracy, %",
        baseline=arm(Supervised(copy.deepcopy(start))),
        method=arm(meal()),
        higher_is_better=True,
        versus="the same student trained on with labels",
        extra={
            "supervised start, %": accuracy(start, pair.test),
            "one teacher, %": arm(meal(1)),
            "no adversary, %": arm(meal(adversarial=0.0)),
            "from scratch, all steps, %": arm(meal(student=fresh("cnn-8-16")), WARM + STEPS),
            "kd from one teacher, %": arm(KD(copy.deepcopy(start), teachers[0])),
        },
    )
