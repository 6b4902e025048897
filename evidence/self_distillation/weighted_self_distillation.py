"""The closed-form weight of self-distillation, on a network."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from evidence._shared import accuracy, batches, images, train
from limbeck.core.method import Setting
from limbeck.data.batches import Batches
from limbeck.data.images import ImageSet
from limbeck.data.noise import limit, with_label_noise
from limbeck.methods.self_distillation.weighted_self_distillation import WeightedSelfDistillation
from limbeck.models.load import load_classifier
from limbeck.run.evidence import Result

CLAIM = "With 40 % wrong labels, one generation with the closed-form weight beats the first fit to the labels."
STEPS = 800


def evidence(seed: int, data: Path | None = None) -> Result:
    """Test accuracy of the student against a refit to the labels; both learn from the same nine tenths of the data."""
    pair = images(data)
    noisy = with_label_noise(limit(pair.train, 600, seed), 0.4, seed)
    weights: list[float] = []

    def fitted(method: WeightedSelfDistillation, *, name: str, data: Batches) -> None:
        train(method, data, STEPS)
        weights.append(method.w or 0.0)

    def score(samples: ImageSet, values: dict[str, float]) -> float:
        numbers = count(100 * seed)
        setting = Setting(
            lambda: load_classifier("mlp-128", shape=noisy.shape, classes=noisy.classes, seed=next(numbers)),
            (), batches(samples, seed), STEPS, fitted,
        )  # fmt: skip
        return accuracy(WeightedSelfDistillation.distil(setting, values), pair.test)

    found = score(noisy, {})
    weight = weights[-1]
    same, _ = noisy.split(WeightedSelfDistillation.held_out, seed=0)
    return Result(
        metric="test accuracy, %",
        baseline=score(same, {"w": 0.0}),
        method=found,
        higher_is_better=True,
        versus="the same network refitted to the same labels",
        extra={
            "weight found": weight,
            **{f"weight {w}": score(same, {"w": w}) for w in (0.25, 0.5, 0.75, 1.0)},
            "refitted to all labels, the held-out tenth too": score(noisy, {"w": 0.0}),
        },
    )
