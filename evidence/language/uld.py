"""ULD's own comparison: a student with other words than the teacher's, from few texts, with and without the loss.

A shorter form (40 texts, 60 and 100 steps) was recorded first, on seeds 100 to 104: inconclusive, +0.06 [-0.03, 0.15],
as the labels hardly overfitted. This is the form it was cut from, on seeds that neither used.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from evidence._language import batches, lm, nll, prose, prose_teacher, rows, train, words_of
from limbeck.data.text import TextSet, cut_text
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import TokenBatches, TokenSet
from limbeck.methods.language.sft import SFT
from limbeck.methods.language.uld import ULD
from limbeck.models.causal_lm import CausalLM
from limbeck.run.evidence import Result

CLAIM = (
    "On few texts, trained until it overfits, labels with the sorted probabilities of a teacher that has other words "
    "(ULD, lambda 1.5) leave a lower held-out loss than the labels alone."
)
TEXTS, CHARS, WARM, STEPS, BATCH = 80, 120, 100, 200, 8


def apart(text: TextSet, tokenizer: Any) -> TokenSet:
    """A row a document, with the bytes at which tokens end."""
    return tokenise(text, tokenizer, 128, offsets=True)


def world(seed: int, data: Path | None) -> tuple[CausalLM, CausalLM, TokenSet, TokenSet, TokenSet]:
    """A teacher of 512 words that saw all texts; a student of 320 that was trained on 80 pieces of 120 characters;
    these in its words and in the teacher's; held-out pieces."""
    pair = prose(data)
    theirs, ours = words_of(pair, 512), words_of(pair, 320)
    taught, student = prose_teacher(rows(pair.train, theirs), seed), lm(48, 1, ours, seed)
    few = TextSet(cut_text(pair.train, CHARS).documents[:TEXTS])
    held = TextSet(cut_text(pair.test, CHARS).documents[:100])
    said, seen, test = (apart(text, words) for text, words in ((few, ours), (few, theirs), (held, ours)))
    torch.manual_seed(seed)
    train(SFT(student), batches(said, seed, BATCH), WARM)
    return taught, student, said, seen, test


def evidence(seed: int, data: Path | None = None) -> Result:
    """One trained student goes on in both arms, for as many steps in the same order."""
    taught, student, said, seen, held = world(seed, data)

    def arm(weight: float) -> float:
        learner = copy.deepcopy(student)
        torch.manual_seed(seed + 1)
        made = ULD(learner, taught, weight=weight) if weight else SFT(learner)
        train(made, TokenBatches(said, BATCH, seed=seed + 1, view=seen if weight else None), STEPS)
        return nll(learner, held)

    return Result(
        metric="held-out loss, nats a word",
        baseline=arm(0.0),
        method=arm(1.5),
        higher_is_better=False,
        versus="the labels alone, as long",
        extra={"before": nll(student, held)},
    )
