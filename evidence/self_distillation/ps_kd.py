"""Progressive self-distillation under label noise: see the notes in the method's card on where it helps."""

from __future__ import annotations

from pathlib import Path

from evidence._shared import accuracy, batches, images, train
from limbeck.data.noise import limit, with_label_noise
from limbeck.methods.classification.supervised import Supervised
from limbeck.methods.self_distillation.ps_kd import PSKD
from limbeck.models.load import load_classifier
from limbeck.run.evidence import Result

CLAIM = "With 40 % wrong labels, PS-KD beats the same network trained on the labels as they are."
STEPS = 600


def evidence(seed: int, data: Path | None = None) -> Result:
    """Test accuracy of PS-KD against plain training; label smoothing is the other baseline."""
    pair = images(data)
    noisy = with_label_noise(limit(pair.train, 600, seed), 0.4, seed)

    def fresh():
        return load_classifier("mlp-128", shape=noisy.shape, classes=noisy.classes, seed=seed)

    def score(method) -> float:
        return accuracy(train(method, batches(noisy, seed), STEPS).student, pair.test)

    return Result(
        metric="test accuracy, %",
        baseline=score(Supervised(fresh())),
        method=score(PSKD(fresh(), examples=len(noisy))),
        higher_is_better=True,
        versus="the same network on hard labels",
        extra={"label smoothing 0.1": score(Supervised(fresh(), smoothing=0.1))},
    )
