"""DOT against SGD on the same loss, and against SGD on the loss that DOT's momenta amount to."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn

from evidence._shared import accuracy, batches, images, train
from limbeck import Method
from limbeck.data.noise import with_label_noise
from limbeck.methods.classification.dot import DOT
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.load import load_classifier
from limbeck.run.evidence import Result

CLAIM = (
    "Where the two terms disagree (40 % of the labels are wrong), KD under DOT ends with a better student than KD "
    "under SGD with the same momentum, learning rate and steps."
)
STEPS, NOISE, RATE, MU, DELTA, ALPHA, TAU = 600, 0.4, 0.05, 0.9, 0.075, 0.5, 1.0  # alpha, tau: the paper's for ImageNet


def evidence(seed: int, data: Path | None = None) -> Result:
    """Re-weighted SGD has the steady-state weights of DOT: (1 - mu) / (1 - mu + Delta) of the task's gradient,
    (1 - mu) / (1 - mu - Delta) of the distillation's; one learning rate and alpha say the same."""
    pair = images(data)
    noisy = with_label_noise(pair.train, NOISE, seed)

    def fresh(reference: str) -> nn.Module:
        return load_classifier(reference, shape=pair.train.shape, classes=pair.train.classes, seed=seed)

    teacher = train(Supervised(fresh("cnn-32-64")), batches(pair.train, seed), 400).student

    def arm(method: Method, rate: float = RATE) -> float:
        sgd = partial(torch.optim.SGD, lr=rate, momentum=MU, weight_decay=5e-4)
        return accuracy(train(method, batches(noisy, seed), STEPS, optimizer=sgd).student, pair.test)

    def kd(alpha: float = ALPHA, delta: float = 0.0) -> Method:
        return DOT(fresh("cnn-8-16"), teacher, alpha=alpha, tau=TAU, delta=delta)

    task, distil = (1 - ALPHA) * (1 - MU) / (1 - MU + DELTA), ALPHA * (1 - MU) / (1 - MU - DELTA)
    return Result(
        metric="test accuracy, %",
        baseline=arm(kd()),
        method=arm(kd(delta=DELTA)),
        higher_is_better=True,
        versus="KD under SGD with momentum",
        extra={
            "teacher, %": accuracy(teacher, pair.test),
            "labels alone, %": arm(Supervised(fresh("cnn-8-16"))),
            "SGD, re-weighted as DOT, %": arm(kd(distil / (task + distil)), RATE * (task + distil)),
            "SGD, re-weighted, same rate, %": arm(kd(distil / (task + distil))),
        },
    )
