"""What hidden states add to labels and words, by a bound on mutual information and by its rivals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from evidence._language import batches, distilled, exact_match, lm, rows, task_teacher, tasks, words_of
from limbeck.methods.language.distiller_mi_alpha import DistillerMIAlpha
from limbeck.run.evidence import Result

CLAIM = (
    "A small student on few rows gives more right answers when its hidden states also maximise MI-alpha with the "
    "teacher's (alpha 0.9) than when it learns from labels and the teacher's words alone."
)
SHOTS, STEPS, RATE = 400, 300, 4e-3


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same student, rows, order, steps and optimiser in every arm."""
    pair = tasks(data)
    tokenizer = words_of(pair, 0)
    whole, held = rows(pair.train, tokenizer), rows(pair.test, tokenizer)
    few = whole.subset(range(SHOTS))
    taught = task_teacher(whole, seed)

    def arm(**values: Any) -> float:
        torch.manual_seed(seed)
        made = distilled(
            DistillerMIAlpha, lambda: lm(32, 2, tokenizer, seed), taught, batches(few, seed, 32), STEPS, RATE, **values
        )
        return exact_match(made, held)

    return Result(
        metric="exact match of greedy answers, %",
        baseline=arm(intermediate="none"),
        method=arm(),
        higher_is_better=True,
        versus="the same student without the intermediate loss",
        extra={
            "InfoNCE (alpha 1)": arm(alpha=1.0),
            "mean square": arm(intermediate="mse"),
            "teacher": exact_match(taught, held),
        },
    )
