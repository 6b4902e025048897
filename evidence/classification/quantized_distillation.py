"""Weights of two bits where labels are few: the teacher has seen the whole training set, the student ten a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from evidence._shared import accuracy, batches, images, train
from limbeck.core.method import Method, Setting
from limbeck.core.modules import freeze
from limbeck.methods.classification.quantized_distillation import QuantizedDistillation
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.classifier import Classifier
from limbeck.models.tiny import mlp
from limbeck.run.evidence import Result

CLAIM = (
    "With ten labelled images a class, a student with 2-bit weights that also learns from a full-precision teacher "
    "beats the same student under quantisation-aware training on those labels alone."
)
STEPS, BITS, SHOTS = 600, 2, 10


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same first weights, data order, steps and optimiser in every arm; finished students are what is tested."""
    pair = images(data)
    shape, classes = pair.train.shape, len(pair.train.classes)
    few = pair.train.limited(per_class=SHOTS, seed=seed)
    torch.manual_seed(seed)
    teacher = mlp(256, 256, shape=shape, classes=classes)
    train(Supervised(teacher), batches(pair.train, seed), STEPS)
    freeze(teacher)

    def fit(method: Method, *, name: str = "student", data: Any = None, steps: int = STEPS) -> None:
        train(method, batches(few, seed), steps)

    def student() -> Classifier:
        torch.manual_seed(seed + 1)
        return mlp(32, shape=shape, classes=classes)

    def arm(**values: Any) -> float:
        setting = Setting(student, [teacher], batches(few, seed), STEPS, fit)
        return accuracy(QuantizedDistillation.distil(setting, {"bits": BITS, **values}), pair.test)

    full = QuantizedDistillation(student(), teacher, variant="post_training")
    fit(full)
    return Result(
        metric="test accuracy, %",
        baseline=arm(alpha=0.0),
        method=arm(),
        higher_is_better=True,
        versus="quantisation-aware training on the labels alone",
        extra={
            "distilled, quantised afterwards": arm(variant="post_training"),
            "distilled, its points learnt afterwards": arm(variant="differentiable"),
            "distilled, in full precision": accuracy(full.student, pair.test),
            "at 4 bits, distilled": arm(bits=4),
            "at 4 bits, labels alone": arm(bits=4, alpha=0.0),
            "teacher": accuracy(teacher, pair.test),
        },
    )
