"""Pre-training with and without a teacher's truncated words, from scratch, under the same steps."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._language import batches, lm, nll, prose, prose_teacher, rows, train, words_of
from limbeck import Method
from limbeck.methods.language.pretraining_distillation import PretrainingDistillation
from limbeck.methods.language.sft import SFT
from limbeck.run.evidence import Result

CLAIM = (
    "Pre-trained from scratch for the same steps, a student that also learns the words a teacher holds likely (top 95 % "
    "of the mass, at most 100 words, alpha 0.9 with warm-up and decay) leaves a lower held-out loss than the text alone."
)
STEPS = 250


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same fresh student, order, steps and optimiser in every arm; the rate falls along a cosine."""
    pair = prose(data)
    tokenizer = words_of(pair, 512)
    whole, held = rows(pair.train, tokenizer), rows(pair.test, tokenizer)
    taught = prose_teacher(whole, seed)

    def arm(divergence: str) -> float:
        student = lm(48, 1, tokenizer, seed)
        made: Method = SFT(student)
        if divergence:
            made = PretrainingDistillation(student, taught, divergence=divergence)
        torch.manual_seed(seed)
        train(made, batches(whole, seed), STEPS)
        return nll(student, held)

    return Result(
        metric="held-out loss, nats a word",
        baseline=arm(""),
        method=arm("nll"),
        higher_is_better=False,
        versus="the text alone, for as many steps",
        extra={"teacher": nll(taught, held), "squared error of logits": arm("mse")},
    )
