"""What brings a pruned network back on few rows: labels, the dense network's words, or its hidden states."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._language import batches, distilled, exact_match, lm, rows, task_teacher, tasks, words_of
from limbeck.methods.language.squarehead import SquareHead
from limbeck.models.surgery import sparsify, sparsity, truncate
from limbeck.run.evidence import Result

CLAIM = (
    "A Llama that loses 75% of its blocks' weights and is trained on with 100 rows gives more right answers with "
    "labels and SquareHead (w_feat 10) than with labels alone, after the same steps and with the same zeros."
)
SHOTS, STEPS, RATE, SPARSITY = 100, 100, 2e-3, 0.75


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same dense network, masks, rows, order, steps and optimiser in every arm."""
    pair = tasks(data)
    tokenizer = words_of(pair, 0)
    whole, held = rows(pair.train, tokenizer), rows(pair.test, tokenizer)
    few = whole.subset(range(SHOTS))
    dense = task_teacher(whole, seed)
    zeros: list[float] = []

    def arm(feat: float, logit: float = 0.0) -> float:
        torch.manual_seed(seed)
        made = distilled(
            SquareHead, lambda: lm(64, 2, tokenizer, seed), dense, batches(few, seed, 32), STEPS, RATE,
            sparsity=SPARSITY, feat=feat, logit=logit,
        )  # fmt: skip
        zeros.append(sparsity(made))
        return exact_match(made, held)

    pruned = truncate(dense, range(dense.depth))
    sparsify(pruned, SPARSITY)
    return Result(
        metric="exact match of greedy answers, %",
        baseline=arm(0.0),
        method=arm(10.0),
        higher_is_better=True,
        versus="the same masks and steps on labels alone",
        extra={
            "w_feat 1": arm(1.0),
            "labels and KL": arm(0.0, 1.0),
            "dense": exact_match(dense, held),
            "pruned, not trained": exact_match(pruned, held),
            "least share of zeros, %": 100 * min(zeros),
        },
    )
