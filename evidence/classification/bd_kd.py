"""BD-KD's calibration where labels are few, beside its unweighted form and KD from a finished teacher."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from evidence._shared import accuracy, batches, images, probabilities, train
from limbeck import Method
from limbeck.diagnostics.calibration import ece
from limbeck.methods.classification.bd_kd import BDKD
from limbeck.methods.classification.kd import KD
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.load import load_classifier
from limbeck.run.evidence import Result

CLAIM = (
    "Trained from scratch on ten labelled images a class, which it can memorise, a student that learns online with a "
    "larger network is better calibrated (lower ECE) than the same student trained alone."
)
STEPS, RATE, SHOTS = 600, 1e-2, 10


def evidence(seed: int, data: Path | None = None) -> Result:
    """Both networks see the few labels only. Same initialisation, data order, steps and optimiser in every arm.

    The student must be able to memorise: one that is not (cnn-8-16) is hardly over-confident, and its gain was
    inconclusive (0.4 points over five seeds).
    """
    pair = images(data)
    few = pair.train.limited(per_class=SHOTS, seed=seed)

    def fresh(reference: str) -> nn.Module:
        return load_classifier(reference, shape=pair.train.shape, classes=pair.train.classes, seed=seed)

    def arm(method: Method) -> nn.Module:
        return train(method, batches(few, seed), STEPS, lr=RATE).student

    def error(model: nn.Module) -> float:
        return 100.0 * ece(probabilities(model, pair.test).log(), pair.test.labels)

    alone, online = arm(Supervised(fresh("mlp-64"))), arm(BDKD(fresh("mlp-64"), fresh("mlp-256")))
    plain = arm(BDKD(fresh("mlp-64"), fresh("mlp-256"), delta=1.0))
    offline = arm(KD(fresh("mlp-64"), arm(Supervised(fresh("mlp-256")))))
    return Result(
        metric="expected calibration error, %",
        baseline=error(alone),
        method=error(online),
        higher_is_better=False,
        versus="the same student on the labels alone",
        extra={
            "accuracy, %": accuracy(online, pair.test),
            "accuracy of the baseline, %": accuracy(alone, pair.test),
            "ECE with delta 1, %": error(plain),
            "accuracy with delta 1, %": accuracy(plain, pair.test),
            "ECE of kd, %": error(offline),
            "accuracy of kd, %": accuracy(offline, pair.test),
        },
    )
