"""A start from the large network's own blocks, against a fresh one and against ordinary distillation."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._language import batches, distilled, lm, nll, prose, rows, teacher, train, words_of
from limbeck.methods.language.sft import SFT
from limbeck.methods.language.teacher_free_truncation import TeacherFreeTruncation
from limbeck.models.surgery import truncate
from limbeck.run.evidence import Result

CLAIM = (
    "Half of a Llama's four blocks, trained on without a teacher, predict held-out words better, by 0.1 nats and more, "
    "than a fresh network of that size after the same steps."
)
STEPS, RATE = 120, 3e-3


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same text, order, steps and optimiser in every arm."""
    pair = prose(data)
    tokenizer = words_of(pair)
    learnt, held = rows(pair.train, tokenizer), rows(pair.test, tokenizer)
    whole = teacher(64, 4, learnt, seed, steps=400)

    def fresh():
        return lm(64, 2, tokenizer, seed)

    def arm(**values: float) -> float:
        torch.manual_seed(seed)
        made = distilled(TeacherFreeTruncation, fresh, whole, batches(learnt, seed), STEPS, RATE, **values)
        return nll(made, held)

    torch.manual_seed(seed)
    alone = fresh()
    train(SFT(alone), batches(learnt, seed), STEPS, RATE)
    return Result(
        metric="held-out loss, nats a word",
        baseline=nll(alone, held),
        method=arm(),
        higher_is_better=False,
        margin=0.1,
        versus="the same steps from a fresh start",
        extra={
            "with a teacher (a 0.5)": arm(alpha=0.5),
            "truncated, not trained": nll(truncate(whole, [0, 3]), held),
            "teacher": nll(whole, held),
        },
    )
