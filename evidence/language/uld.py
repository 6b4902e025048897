"""ULD's own comparison: a student with other words than the teacher's, from few texts, with and without the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from evidence._language import batches, lm, nll, prose, prose_teacher, rows, train, words_of
from limbeck.data.text import TextSet, cut_text
from limbeck.data.tokens import TokenBatches, TokenSet, tokenise
from limbeck.methods.language.sft import SFT
from limbeck.methods.language.uld import ULD
from limbeck.run.evidence import Result

CLAIM = (
    "On few texts, trained until it overfits, labels with the sorted probabilities of a teacher that has other words "
    "(ULD, lambda 1.5) leave a lower held-out loss than the labels alone."
)
TEXTS, CHARS, WARM, STEPS = 80, 120, 100, 150


def apart(text: TextSet, tokenizer: Any) -> TokenSet:
    """A row a document, cut so that either tokenizer has room for it."""
    return tokenise(cut_text(text, CHARS), tokenizer, 128, offsets=True)


def evidence(seed: int, data: Path | None = None) -> Result:
    """The teacher has 512 words and saw all texts; the student has 320 and 80 pieces of 120 characters."""
    pair = prose(data)
    theirs, ours = words_of(pair, 512), words_of(pair, 320)
    taught = prose_teacher(rows(pair.train, theirs), seed)
    few, view = (apart(pair.train, words).subset(range(TEXTS)) for words in (ours, theirs))
    held = apart(pair.test, ours)
    held = held.subset(range(min(len(held), 200)))

    def arm(weight: float | None) -> float:
        student = lm(48, 1, ours, seed)
        torch.manual_seed(seed)
        train(SFT(student), batches(few, seed), WARM)
        torch.manual_seed(seed + 1)
        if weight is None:
            train(SFT(student), batches(few, seed + 1), STEPS)
        else:
            train(ULD(student, taught, weight=weight), TokenBatches(few, 16, seed=seed + 1, view=view), STEPS)
        return nll(student, held)

    return Result(
        metric="held-out loss, nats a word",
        baseline=arm(None),
        method=arm(1.5),
        higher_is_better=False,
        versus="the labels alone, as long",
    )
