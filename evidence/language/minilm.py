"""Relations of a teacher's last layer on much text, before training on a little of it."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._language import batches, nll, prose, rows, teacher, train, words_of
from limbeck.methods.language.minilm import MiniLM
from limbeck.methods.language.sft import SFT
from limbeck.models.causal_lm import CausalLM
from limbeck.models.tiny_lm import llama
from limbeck.run.evidence import Result

CLAIM = (
    "A small Llama that first learns the relations of a teacher's last layer, on text whose words it is not trained "
    "on, predicts held-out words better after training on a twentieth of that text than one that only trains on the "
    "twentieth."
)
BEFORE, STEPS, SHARE = 120, 100, 20


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same student, fine-tuning rows, order, steps and optimiser in every arm."""
    pair = prose(data)
    tokenizer = words_of(pair)
    whole, held = rows(pair.train, tokenizer), rows(pair.test, tokenizer)
    few = whole.subset(range(0, len(whole), SHARE))
    taught = teacher(64, 4, whole, seed, steps=400)

    def fresh() -> CausalLM:
        torch.manual_seed(seed)
        return llama(32, 2, tokenizer, heads=4, context=128)

    def tuned(student: CausalLM, steps: int = STEPS) -> float:
        torch.manual_seed(seed)
        train(SFT(student), batches(few, seed), steps)
        return nll(student, held)

    def prepared() -> CausalLM:
        student = fresh()
        train(MiniLM(student, taught, share=1.0), batches(whole, seed), BEFORE)
        return student

    return Result(
        metric="held-out loss, nats a word",
        baseline=tuned(fresh()),
        method=tuned(prepared()),
        higher_is_better=False,
        versus="the same fine-tuning from a fresh start",
        extra={
            "fine-tuned for all the steps": tuned(fresh(), STEPS + BEFORE),
            "teacher": nll(taught, held),
        },
    )
