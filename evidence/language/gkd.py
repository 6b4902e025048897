"""GKD's own comparison: the student's answers against the data's answers, under one teacher and one divergence."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._language import batches, exact_match, lm, rows, task_teacher, tasks, train, words_of
from limbeck import Method
from limbeck.methods.language.gkd import GKD
from limbeck.methods.language.sft import SFT
from limbeck.run.evidence import Result

CLAIM = (
    "From one supervised student, steps on its own answers under the teacher's word distributions (GKD, lmbda 1) give "
    "more right answers than as many steps on the data's answers under the same divergence (lmbda 0)."
)
SHOTS, WARM, STEPS, RATE = 400, 150, 200, 2e-3


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same supervised student, prompts, order, steps and optimiser in every arm."""
    pair = tasks(data)
    tokenizer = words_of(pair, 0)
    whole, held = rows(pair.train, tokenizer), rows(pair.test, tokenizer)
    few = whole.subset(range(SHOTS))
    taught = task_teacher(whole, seed)

    def arm(method: str) -> float:
        student = lm(32, 1, tokenizer, seed)
        torch.manual_seed(seed)
        train(SFT(student), batches(few, seed, 32), WARM, 5e-3)
        made: Method = SFT(student) if method == "sft" else GKD(student, taught, lmbda=float(method), longest=8)
        torch.manual_seed(seed + 1)
        train(made, batches(few, seed + 1, 32), STEPS, RATE)
        return exact_match(student, held)

    return Result(
        metric="exact match of greedy answers, %",
        baseline=arm("0"),
        method=arm("1"),
        higher_is_better=True,
        versus="the same steps on the data's answers",
        extra={"teacher, %": exact_match(taught, held), "labels alone, %": arm("sft"), "half and half, %": arm("0.5")},
    )
