"""The embedding loss on digits: distribution matching on small batches, with it and without."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import batches, digits, digits_teacher, fid, judge, train
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.embedding_loss import EmbeddingLoss
from limbeck.models.sampling import Ode
from limbeck.run.evidence import Result

CLAIM = (
    "With the embedding loss beside it, distribution matching on batches of 32 makes a one-step generator of digits "
    "whose Frechet distance to the data is lower after the same number of steps."
)
STEPS, RATIO, BATCH, WEIGHT = 300, 3, 32, 5.0


def evidence(seed: int, data: Path | None = None) -> Result:
    """The features of the distance are a classifier's, not the random networks'."""
    teacher, real, eye = digits_teacher(data, seed), digits(data), judge(data)

    def arm(embedding: float, host: float = 1.0) -> float:
        torch.manual_seed(seed + 1)
        method = EmbeddingLoss(
            trainable(teacher), teacher, embedding=embedding, host=host, kernel="gaussian", ratio=RATIO if host else 1
        )
        train(method, batches(real, seed, BATCH), STEPS if host else STEPS // RATIO, lr=5e-4)
        return fid(method.student, eye, real, seed)

    return Result(
        metric="Frechet distance in a digit classifier's features, one step",
        baseline=arm(0.0),
        method=arm(WEIGHT),
        higher_is_better=False,
        versus="the same matching without the embedding loss",
        extra={
            "the embedding loss alone": arm(WEIGHT, 0.0),
            "teacher, 1 step": fid(teacher, eye, real, seed, Ode(1)),
            "teacher, 50 steps": fid(teacher, eye, real, seed, Ode(50, "dpm2m")),
        },
    )
