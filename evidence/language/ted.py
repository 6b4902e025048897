"""States behind filters that learnt the task first, against filters that did not, and no states at all."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._language import batches, distilled, lm, nll, prose, rows, teacher, words_of
from limbeck.methods.language.ted import TED
from limbeck.run.evidence import Result

CLAIM = (
    "A small student on a tenth of the text that also matches a teacher's states behind filters which learnt the task "
    "(TED, a2 0.01) predicts held-out words better than one that learns from labels and the teacher's words alone, "
    "after the same steps."
)
STEPS, SHARE = 200, 10


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same student, tuning before, rows, order, steps and optimiser in every arm; filters take steps of their own."""
    pair = prose(data)
    tokenizer = words_of(pair)
    whole, held = rows(pair.train, tokenizer), rows(pair.test, tokenizer)
    few = whole.subset(range(0, len(whole), SHARE))
    taught = teacher(64, 4, whole, seed, steps=400)

    def arm(layer: float, filter_share: float) -> float:
        torch.manual_seed(seed)
        made = distilled(
            TED, lambda: lm(32, 2, tokenizer, seed), taught, batches(few, seed), STEPS,
            layer=layer, filter_share=filter_share,
        )  # fmt: skip
        return nll(made, held)

    return Result(
        metric="held-out loss, nats a word",
        baseline=arm(0.0, 0.0),
        method=arm(0.01, 0.2),
        higher_is_better=False,
        versus="the same steps on labels and the teacher's words",
        extra={"filters that learnt nothing": arm(0.01, 0.0), "teacher": nll(taught, held)},
    )
