"""A pool in which half of the problems cannot be solved, with and without weights by pass rate.

A second look. The first form (160 steps of warming, 60 steps at a rate of 1e-4, pass rates of four answers taken once)
was recorded on seeds 100 to 104: inconclusive, +4.6 points [-0.6, 9.7]. It was weak by design: such steps hardly moved
the student, and one that is right in one sampled answer of eight leaves few problems open, on rates of four answers
that were never taken again. Here the student begins near the teacher, is trained with larger steps, and its rates are
of eight answers, taken anew every quarter of the run; the seeds are ones that neither used. While building: from the
weaker start and without new rates, larger steps do harm, as the weights then rest on a seventh of the problems.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path

import torch
from torch import Tensor

from evidence._language import batches, exact_match, lm, rows, task_teacher, tasks, train, words_of
from limbeck.data.text import Document, TextSet
from limbeck.data.tokens import Tokens
from limbeck.methods.language._shared import Verifier, exact
from limbeck.methods.language.paced import PACED
from limbeck.methods.language.sft import SFT
from limbeck.run.evidence import Result

CLAIM = (
    "Where half of the problems have an answer that nobody can find, forward KL to a teacher that is weighed by the "
    "student's pass rates (PACED) leads to more right answers on held-out problems than the same steps unweighted."
)
WARM, STEPS, RATE, POOL, ROLLOUTS, REFRESH, SAID = 320, 150, 1e-3, 1600, 8, 0.25, 7


def spoilt(document: Document, drawn: random.Random) -> Document:
    """A problem whose answer has its digits in any order."""
    asked, answer = document
    return asked, answer._replace(text="".join(drawn.sample(answer.text, len(answer.text))))


def never(said: Tokens, batch: Tokens) -> Tensor:
    """Nothing passes, so that no problem is open and all count alike."""
    return torch.zeros(len(said.x))


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same start, problems, order, steps and optimiser in both arms."""
    pair = tasks(data)
    tokenizer = words_of(pair, 0)
    taught, held = task_teacher(rows(pair.train, tokenizer), seed), rows(pair.test, tokenizer)
    drawn = random.Random(seed)
    pool = [spoilt(d, drawn) if k % 2 else d for k, d in enumerate(pair.train.documents[:POOL])]
    problems = rows(TextSet(tuple(pool), "pool"), tokenizer)
    warm = lm(48, 1, tokenizer, seed)
    torch.manual_seed(seed)
    train(SFT(warm), batches(rows(pair.train, tokenizer), seed, 32), WARM, 5e-3)

    def arm(verify: Verifier, rollouts: int) -> float:
        student = copy.deepcopy(warm)
        torch.manual_seed(seed)
        made = PACED(
            student,
            taught,
            verify,
            examples=len(problems),
            rollouts=rollouts,
            switch=1.0,
            refresh=REFRESH,
            longest=SAID,
        )
        train(made, batches(problems, seed + 1, 32), STEPS, RATE)
        return exact_match(student, held)

    return Result(
        metric="right answers, %",
        baseline=arm(never, 1),
        method=arm(exact, ROLLOUTS),
        higher_is_better=True,
        versus="all problems alike",
        extra={"before": exact_match(warm, held)},
    )
