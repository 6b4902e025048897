"""ALM's own comparison: a student with other words than the teacher's, from few texts, with and without the teacher."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from evidence._language import nll, train
from evidence.language.uld import BATCH, STEPS, world
from limbeck import Method
from limbeck.data.tokens import TokenBatches
from limbeck.methods.language.alm import ALM
from limbeck.methods.language.sft import SFT
from limbeck.run.evidence import Result

CLAIM = (
    "On few texts, trained until it overfits, a student that matches how likely a teacher with other words finds their "
    "pieces, beside the labels (ALM), has a lower held-out loss than from the labels alone."
)


def evidence(seed: int, data: Path | None = None) -> Result:
    """One trained student goes on in every arm, for as many steps in the same order."""
    taught, student, said, seen, held = world(seed, data)

    def arm(labels: float | None) -> float:
        learner = copy.deepcopy(student)
        torch.manual_seed(seed + 1)
        made: Method = SFT(learner) if labels is None else ALM(learner, taught, labels=labels)
        train(made, TokenBatches(said, BATCH, seed=seed + 1, view=None if labels is None else seen), STEPS)
        return nll(learner, held)

    return Result(
        metric="held-out loss, nats a word",
        baseline=arm(None),
        method=arm(1.0),
        higher_is_better=False,
        versus="the labels alone, as long",
        extra={"before": nll(student, held), "without labels": arm(0.0)},
    )
