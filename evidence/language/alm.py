"""ALM's own comparison: a student of bytes, a teacher of byte pairs, few texts, with and without the teacher."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._language import batches, lm, nll, prose, prose_teacher, rows, train, words_of
from evidence.language.uld import apart
from limbeck import Method
from limbeck.data.tokens import TokenBatches
from limbeck.methods.language.alm import ALM
from limbeck.methods.language.sft import SFT
from limbeck.methods.language.uld import ULD
from limbeck.run.evidence import Result

CLAIM = (
    "From few texts, a student of bytes that matches the likelihoods of a teacher of byte pairs beside the labels (ALM) "
    "leaves a lower held-out loss than the labels alone."
)
TEXTS, STEPS = 450, 250


def evidence(seed: int, data: Path | None = None) -> Result:
    """The teacher has 512 words and saw all texts; the student has the bytes and 450 pieces of 120 characters."""
    pair = prose(data)
    theirs, ours = words_of(pair, 512), words_of(pair, 0)
    taught = prose_teacher(rows(pair.train, theirs), seed)
    few, view = (apart(pair.train, words).subset(range(TEXTS)) for words in (ours, theirs))
    held = apart(pair.test, ours).subset(range(300))

    def arm(name: str) -> float:
        student = lm(48, 1, ours, seed)
        made: dict[str, Method] = {
            "labels": SFT(student),
            "both": ALM(student, taught),
            "alone": ALM(student, taught, labels=0),
            "uld": ULD(student, taught),
        }
        data = batches(few, seed) if name == "labels" else TokenBatches(few, 16, seed=seed, view=view)
        torch.manual_seed(seed)
        train(made[name], data, STEPS)
        return nll(student, held)

    return Result(
        metric="held-out loss, nats a byte",
        baseline=arm("labels"),
        method=arm("both"),
        higher_is_better=False,
        versus="the labels alone",
        extra={"without labels, nats a byte": arm("alone"), "ULD, nats a byte": arm("uld")},
    )
