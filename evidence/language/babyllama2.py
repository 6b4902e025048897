"""BabyLlama-2's setting: a small text read many times, two teachers of the student's own size on the same text."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._language import batches, lm, nll, prose, rows, train, words_of
from limbeck import Method
from limbeck.core.modules import freeze
from limbeck.methods.language.babyllama2 import BabyLlama2
from limbeck.methods.language.sft import SFT
from limbeck.models.causal_lm import CausalLM
from limbeck.run.evidence import Result

CLAIM = (
    "On a small text that is read many times, a student taught by two teachers of its own size, trained on the same "
    "text from other seeds, predicts held-out text better than the same student trained on the text alone."
)
DOCUMENTS, STEPS = 150, 200


def evidence(seed: int, data: Path | None = None) -> Result:
    """Every network has the same size, text, steps and optimiser."""
    pair = prose(data)
    tokenizer = words_of(pair)
    few, held = rows(pair.train.subset(range(DOCUMENTS)), tokenizer), rows(pair.test, tokenizer)

    def arm(first: int, teachers: list[CausalLM]) -> CausalLM:
        student = lm(48, 1, tokenizer, first)
        torch.manual_seed(first)
        frozen = torch.nn.ModuleList(freeze(teacher) for teacher in teachers)
        made: Method = BabyLlama2(student, frozen) if teachers else SFT(student)
        train(made, batches(few, first), STEPS)
        return student

    teachers = [arm(20_000 + 2 * seed, []), arm(20_001 + 2 * seed, [])]
    alone = arm(seed, [])
    return Result(
        metric="held-out loss, nats a word",
        baseline=nll(alone, held),
        method=nll(arm(seed, teachers), held),
        higher_is_better=False,
        extra={
            "better teacher": min(nll(teacher, held) for teacher in teachers),
            "one teacher (born again)": nll(arm(seed, teachers[:1]), held),
        },
    )
