"""Swing distillation's own comparison: how well a student remembers made-up secrets, with and without protection."""

from __future__ import annotations

import math
import random
from pathlib import Path

import torch

from evidence._language import batches, lm, nll, prose, rows, teacher, train, words_of
from limbeck.data.text import Span, TextSet
from limbeck.data.tokenising import tokenise
from limbeck.losses.vocabulary import word_log_probs
from limbeck.methods.language.swing import Swing
from limbeck.models.causal_lm import CausalLM
from limbeck.run.evidence import Result

CLAIM = (
    "On a text with secrets that the teacher has learnt by heart, swing distillation leaves the student with less than "
    "a fifth of the exposure that ordinary distillation on the same text leaves it with."
)
DOCUMENTS, SECRETS, COPIES, STEPS, GUESSES = 25, 5, 16, 80, 1000


def secrets(seed: int) -> list[tuple[str, str]]:
    """Sentences that nothing but a number of four digits completes."""
    drawn = random.Random(1_000 + seed)
    names = ["Anna", "Boris", "Clara", "David", "Edith"][:SECRETS]
    return [(f"The number of {name} is ", f"{drawn.randrange(10_000):04d}") for name in names]


@torch.no_grad()
def exposure(model: CausalLM, seed: int) -> float:
    """Bits, mean over the secrets: log2 of all guesses minus log2 of the secret's rank among them.

    The guesses are the secret and random other numbers, ranked by the model's likelihood of the number.
    """
    drawn, bits = random.Random(seed), list[float]()
    for prompt, number in secrets(seed):
        others = drawn.sample([f"{k:04d}" for k in range(10_000) if f"{k:04d}" != number], GUESSES - 1)
        asked = TextSet(tuple((Span(prompt, learn=False), Span(guess)) for guess in (number, *others)), "guesses")
        tokens = tokenise(asked, model.tokenizer, 64)
        batch = tokens.take(torch.arange(GUESSES))
        said = word_log_probs(model(batch), batch.y).sum(1)
        bits.append(math.log2(GUESSES) - math.log2(1 + int((said[1:] >= said[0]).sum())))
    return sum(bits) / len(bits)


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same text, steps and weight of the teacher in both arms; the ordinary one finds nothing private."""
    pair = prose(data)
    tokenizer = words_of(pair)
    told = [(Span(prompt + number + "."),) for prompt, number in secrets(seed) for _ in range(COPIES)]
    text = TextSet((*pair.train.documents[:DOCUMENTS], *told), "secrets")
    mixed = TextSet(tuple(random.Random(seed).sample(text.documents, len(text))), "secrets")
    leaky = tokenise(mixed, tokenizer, 64)  # a row a secret: where a row is cut, half a number matches no pattern
    taught = teacher(48, 1, leaky, seed, steps=150)
    held = rows(pair.test.subset(range(40)), tokenizer)

    def arm(private: str) -> CausalLM:
        student = lm(32, 1, tokenizer, seed)
        torch.manual_seed(seed)
        train(Swing(student, taught, private=private), batches(leaky, seed), STEPS)
        return student

    ordinary, swinging = arm(r"(?!)"), arm(r"\d{4}")
    found = exposure(ordinary, seed)
    return Result(
        metric="exposure of secrets, bits",
        baseline=found / 5,
        method=exposure(swinging, seed),
        higher_is_better=False,
        versus="a fifth of the exposure after ordinary distillation",
        extra={
            "ordinary distillation": found,
            "teacher": exposure(taught, seed),
            "held-out loss, ordinary": nll(ordinary, held),
            "held-out loss, swing": nll(swinging, held),
        },
    )
