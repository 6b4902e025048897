"""TED against layer-wise distillation: a student cut out of its teacher, its states read by filters or by none.

Another form was recorded first, on seeds 100 to 104: a fresh student of width 32, a2 0.01, against labels and the
teacher's words. It did not hold, -0.009 [-0.035, 0.016], and could not show anything: the weight was so small that
filters which had learnt nothing gave the baseline's loss to 0.0005. Here the student starts with its teacher's blocks,
as the paper's GPT-2 does, the squares weigh ten times more (of 0.1, 1 and 10 the best for both arms on a building
seed), and the baseline is the paper's: the teacher's states as they are, behind projections that start at random.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from evidence._language import batches, nll, prose, rows, teacher, train, words_of
from limbeck.methods.language._filters import Filters, FilterTraining
from limbeck.methods.language._shared import matched
from limbeck.methods.language.sft import SFT
from limbeck.methods.language.ted import TED
from limbeck.models.surgery import truncate
from limbeck.run.evidence import Result

CLAIM = (
    "A Llama that lost half of its blocks and is trained on few texts with labels, its teacher's words and states "
    "predicts held-out words better where filters that learnt the task first read the states (TED, a2 0.1) than where "
    "the student's go through a random projection and the teacher's through none (layer-wise distillation, a2 0.1)."
)
WIDTH, DEPTH, TEXTS, BATCH = 64, 4, 150, 8
TUNE, LEARN, STEPS, LAYER = 60, 100, 80, 0.1


def evidence(seed: int, data: Path | None = None) -> Result:
    """Every arm goes on from the same tuned student, with the same rows, order and steps; filters take steps of their
    own before, in which no network moves."""
    pair = prose(data)
    tokenizer = words_of(pair)
    whole, held = rows(pair.train, tokenizer), rows(pair.test, tokenizer)
    few = rows(pair.train.subset(range(TEXTS)), tokenizer)
    held = held.subset(range(0, len(held), max(1, len(held) // 100)))
    taught = teacher(WIDTH, DEPTH, whole, seed, steps=400)

    blocks = matched(DEPTH // 2, DEPTH)
    ours, theirs = [s for s, _ in blocks], [t for _, t in blocks]
    tuned = truncate(taught, theirs).requires_grad_(True)
    torch.manual_seed(seed)
    train(SFT(tuned), batches(few, seed, BATCH), TUNE)

    random, states = Filters(tuned, ours, WIDTH), Filters(taught, theirs, WIDTH)
    for one in states.maps:
        assert isinstance(one, nn.Linear)
        nn.init.eye_(one.weight)
        nn.init.zeros_(one.bias)
    filters, goal = copy.deepcopy(random), Filters(taught, theirs, WIDTH)
    for network, learns in ((taught, goal), (tuned, filters)):
        train(FilterTraining(network, learns), batches(few, seed, BATCH), LEARN)

    def arm(filters: Filters, goal: Filters, layer: float) -> float:
        torch.manual_seed(seed + 1)
        student = copy.deepcopy(tuned)
        made = TED(student, taught, copy.deepcopy(filters), copy.deepcopy(goal), layer=layer)
        train(made, batches(few, seed + 1, BATCH), STEPS)
        return nll(student, held)

    return Result(
        metric="held-out loss, nats a word",
        baseline=arm(random, states, LAYER),
        method=arm(filters, goal, LAYER),
        higher_is_better=False,
        versus="layer-wise distillation: the same steps without filters that learnt the task",
        extra={"labels and words alone": arm(random, states, 0.0), "before": nll(tuned, held)},
    )
