"""The closed-form weight of self-distillation, on a network."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._shared import accuracy, batches, images, train
from limbeck.core.method import Setting
from limbeck.data.noise import limit, with_label_noise
from limbeck.methods.self_distillation.weighted_self_distillation import WeightedSelfDistillation
from limbeck.models.load import load_classifier
from limbeck.run.evidence import Result

CLAIM = "With 40 % wrong labels, one generation with the closed-form weight beats the first fit to the labels."
STEPS = 400


def evidence(seed: int, data: Path | None = None) -> Result:
    """Test accuracy of the student against the first network, by squared error; the collapse-prone w = 1 beside it."""
    pair = images(data)
    noisy = with_label_noise(limit(pair.train, 600, seed), 0.4, seed)

    def run(generations: int, w: float | None) -> tuple[float, float]:
        made, used = iter(range(100)), []

        def fit(method, *, name: str, data) -> None:
            train(method, data, STEPS)
            used.append(method.w)

        def fresh() -> torch.nn.Module:
            number = 100 * seed + next(made)
            return load_classifier("mlp-128", shape=noisy.shape, classes=noisy.classes, seed=number)

        setting = Setting(fresh, (), batches(noisy, seed), STEPS, fit)
        values = {"generations": generations} if w is None else {"generations": generations, "w": w}
        return accuracy(WeightedSelfDistillation.distil(setting, values), pair.test), used[-1]

    found, weight = run(1, None)
    plain, _ = run(1, 0.0)  # a second fit to the labels, on all of the data
    return Result(
        metric="test accuracy, %",
        baseline=plain,
        method=found,
        higher_is_better=True,
        versus="the same network refitted to the labels alone, with the held-out tenth added",
        extra={"weight found": weight, "w = 1, one generation": run(1, 1.0)[0]},
    )
