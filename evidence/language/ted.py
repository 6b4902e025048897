"""Filters that learnt the task first, against filters that did not, and none."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._language import batches, distilled, exact_match, lm, rows, task_teacher, tasks, words_of
from limbeck.methods.language.ted import TED
from limbeck.run.evidence import Result

CLAIM = (
    "A small student that matches a teacher's states behind filters that learnt the task (TED) gives more right answers "
    "than one that learns from labels and the teacher's words alone, after the same steps."
)
SHOTS, STEPS, RATE = 400, 300, 4e-3


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same student, rows, order, steps and optimiser in every arm; the tuning before counts in each."""
    pair = tasks(data)
    tokenizer = words_of(pair, 0)
    whole, held = rows(pair.train, tokenizer), rows(pair.test, tokenizer)
    few = whole.subset(range(SHOTS))
    taught = task_teacher(whole, seed)

    def arm(**values: float) -> float:
        torch.manual_seed(seed)
        made = distilled(
            TED, lambda: lm(32, 2, tokenizer, seed), taught, batches(few, seed, 32), STEPS, RATE, **values
        )  # fmt: skip
        return exact_match(made, held)

    return Result(
        metric="exact match of greedy answers, %",
        baseline=arm(layer=0.0, filter_share=0.0),
        method=arm(),
        higher_is_better=True,
        versus="the same steps on labels and the teacher's words",
        extra={
            "filters that learnt nothing": arm(filter_share=0.0),
            "labels alone": arm(layer=0.0, filter_share=0.0, soft=0.0),
            "teacher": exact_match(taught, held),
        },
    )
