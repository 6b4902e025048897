"""Swing distillation's own comparison: how well a student remembers made-up secrets, with and without protection.

A second look. The first form, on seeds 100 to 104, did not hold: -2.2 [-3.6, -0.7] bits. It could not: among 1000
guesses, after so few steps, ordinary distillation left 6.6 bits, a fifth of which is less than the 1.44 bits that a
student who knows nothing has on average. Here all 10 000 numbers are guesses, the ordinary student learns the secrets
nearly by heart, and how common digits are tells nothing of a secret. The seeds are new ones.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

import torch

from evidence._language import batches, lm, nll, prose, rows, teacher, train, words_of
from limbeck.data.text import Span, TextSet
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import Tokens
from limbeck.methods.language.swing import Swing
from limbeck.models.causal_lm import CausalLM
from limbeck.run.evidence import Result

CLAIM = (
    "On a text with secrets that the teacher has learnt by heart, swing distillation leaves the student with less than "
    "a fifth of the exposure that ordinary distillation on the same text leaves it with."
)
DOCUMENTS, COPIES, STEPS, CONTEXT, GUESSES = 12, 16, 300, 32, 10_000
NAMES = ("Anna", "Boris", "Clara", "David", "Edith", "Felix", "Greta", "Henry", "Irene", "Jacob")


def secrets(seed: int) -> list[tuple[str, str]]:
    """Sentences that nothing but a number of four digits completes. At each place every digit comes once."""
    drawn = random.Random(1_000 + seed)
    places = [drawn.sample("0123456789", 10) for _ in range(4)]
    return [(f"The number of {name} is", f" {''.join(digits)}") for name, *digits in zip(NAMES, *places, strict=True)]


@torch.no_grad()
def exposure(model: CausalLM, seed: int) -> float:
    """Bits, mean over the secrets: log2 of all numbers minus log2 of the secret's rank by the model's likelihood."""
    tokens = [tuple(model.tokenizer.encode(f" {k:04d}", add_special_tokens=False)) for k in range(GUESSES)]
    heads = {head: k for k, head in enumerate(sorted({number[:-1] for number in tokens}))}  # what is read: few
    read, length = torch.tensor(list(heads)), len(tokens[0])
    at = torch.tensor([heads[number[:-1]] for number in tokens])[:, None]
    bits = list[float]()
    for prompt, number in secrets(seed):
        asked = torch.tensor(model.tokenizer.encode(prompt, add_special_tokens=False)).expand(len(read), -1)
        x = torch.cat([asked, read], 1)
        said = model(Tokens(x, torch.full_like(x, -100), torch.ones_like(x), x[:, 0], x[:, 0])).log_probs()[:, -length:]
        likely = said[at, torch.arange(length), torch.tensor(tokens)].sum(1)
        bits.append(math.log2(GUESSES) - math.log2(int((likely >= likely[int(number)]).sum())))
    return sum(bits) / len(bits)


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same text, steps and weight of the teacher in both arms; the ordinary one finds nothing private."""
    pair = prose(data)
    tokenizer = words_of(pair)
    told = [(Span(prompt + number + "."),) for prompt, number in secrets(seed) for _ in range(COPIES)]
    text = TextSet((*pair.train.documents[:DOCUMENTS], *told), "secrets")
    mixed = TextSet(tuple(random.Random(seed).sample(text.documents, len(text))), "secrets")
    leaky = tokenise(mixed, tokenizer, CONTEXT)  # a row a secret: where a row is cut, half a number matches no pattern
    taught = teacher(48, 1, leaky, seed, steps=200)
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
            "knowing nothing": math.log2(math.e),
            "held-out loss, ordinary": nll(ordinary, held),
            "held-out loss, swing": nll(swinging, held),
        },
    )
