"""ALM's own comparison: a student with other words than the teacher's, from few texts, with and without the teacher."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._language import batches, lm, nll, prose, prose_teacher, rows, train, words_of
from evidence.language.uld import STEPS, TEXTS, WARM, apart
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
    """The teacher has 512 words and saw all texts; the student has 320 and 80 pieces of 120 characters."""
    pair = prose(data)
    theirs, ours = words_of(pair, 512), words_of(pair, 320)
    taught = prose_teacher(rows(pair.train, theirs), seed)
    few, view = (apart(pair.train, words).subset(range(TEXTS)) for words in (ours, theirs))
    held = apart(pair.test, ours)
    held = held.subset(range(min(len(held), 200)))

    def arm(labels: float | None) -> float:
        student = lm(48, 1, ours, seed)
        torch.manual_seed(seed)
        train(SFT(student), batches(few, seed), WARM)
        torch.manual_seed(seed + 1)
        made: Method = SFT(student) if labels is None else ALM(student, taught, labels=labels)
        view_of = None if labels is None else view
        train(made, TokenBatches(few, 16, seed=seed + 1, drop_last=True, view=view_of), STEPS)
        return nll(student, held)

    return Result(
        metric="held-out loss, nats a word",
        baseline=arm(None),
        method=arm(1.0),
        higher_is_better=False,
        versus="the labels alone, as long",
        extra={"without labels": arm(0.0)},
    )
