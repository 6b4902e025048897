"""MEKD with hard answers: the distance between generated images beside the divergence alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn

from evidence._shared import accuracy, batches, images, train
from limbeck.methods.classification.mekd import MEKD
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.load import load_classifier
from limbeck.run.evidence import Result

CLAIM = (
    "With a teacher that answers queries with a class alone, a small network that sees no label and queries generated "
    "images only is more accurate with MEKD's image distance than with the divergence alone on images of the same "
    "generator."
)
FIRST, SECOND = 1000, 600
ADAM = partial(torch.optim.AdamW, lr=2e-3, betas=(0.5, 0.999), weight_decay=1e-4)  # the momentum that GANs want


def evidence(seed: int, data: Path | None = None) -> Result:
    """Stage 1 once, then every arm from its end with the same random codes; the method reads no label."""
    pair = images(data)

    def fresh(reference: str) -> nn.Module:
        return load_classifier(reference, shape=pair.train.shape, classes=pair.train.classes, seed=seed)

    teacher = train(Supervised(fresh("cnn-16-32")), batches(pair.train, seed), 300).student

    def method(gan_share: float, image: float = 1.0, beta: float = 1.0) -> MEKD:
        return MEKD(fresh("mlp-32"), teacher, hard=True, gan_share=gan_share, image=image, beta=beta, width=16)

    torch.manual_seed(seed)
    first = train(method(1.0), batches(pair.train, seed), FIRST, optimizer=ADAM)

    def arm(**weights: float) -> float:
        second = method(0.0, **weights)
        second.load_state_dict(first.state_dict())
        torch.manual_seed(seed)
        return accuracy(train(second, batches(pair.train, seed), SECOND, optimizer=ADAM).student, pair.test)

    return Result(
        metric="test accuracy, %",
        baseline=arm(image=0.0),
        method=arm(),
        higher_is_better=True,
        versus="the same student and generator with the divergence alone",
        extra={
            "teacher, %": accuracy(teacher, pair.test),
            "after stage 1, %": accuracy(first.student, pair.test),
            "image distance alone, %": arm(beta=0.0),
        },
    )
