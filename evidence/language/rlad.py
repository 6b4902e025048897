"""RLAD against GRPO, which is RLAD with alpha 1: what the teacher in the ratio adds."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from evidence._language import batches, exact_match, lm, rows, task_teacher, tasks, train, words_of
from limbeck.methods.language.rlad import RLAD
from limbeck.methods.language.sft import SFT
from limbeck.run.evidence import Result

CLAIM = (
    "From a student that half knows how to put digits in order, group policy gradient whose ratio is anchored at the "
    "teacher (RLAD, alpha 0.5) leads to more right answers than as many steps of GRPO (alpha 1)."
)
WARM, STEPS, RATE, GROUP, PROMPTS, SAID = 160, 40, 1e-4, 8, 16, 7


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same start, prompts, order, steps and optimiser in both arms."""
    pair = tasks(data)
    tokenizer = words_of(pair, 0)
    learnt, held = rows(pair.train, tokenizer), rows(pair.test, tokenizer)
    taught = task_teacher(learnt, seed)
    warm = lm(48, 1, tokenizer, seed)
    torch.manual_seed(seed)
    train(SFT(warm), batches(learnt, seed, 32), WARM, 5e-3)

    def arm(alpha: float) -> float:
        student = copy.deepcopy(warm)
        torch.manual_seed(seed)
        made = RLAD(student, taught, alpha=alpha, group=GROUP, warm=0.0, longest=SAID)
        train(made, batches(learnt, seed + 1, PROMPTS), STEPS, RATE)
        return exact_match(student, held)

    return Result(
        metric="right answers, %",
        baseline=arm(1.0),
        method=arm(0.5),
        higher_is_better=True,
        versus="GRPO",
        extra={"before": exact_match(warm, held)},
    )
