"""What several experiments start from: a supervised student, a better teacher, prompts of prose to go on from."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch

from evidence._language import batches, prose, prose_teacher, rows, sequence_nll, teacher, train, words_of
from evidence.language.gkd import continuations
from limbeck import Method
from limbeck.data.tokens import TokenSet
from limbeck.methods.language._shared import answers
from limbeck.models.causal_lm import CausalLM

__all__ = ["Start", "start"]

DOCUMENTS, PROMPTS, HELD, WIDTH, WARM, SAID = 150, 300, 120, 48, 120, 24
RATE = 2e-3


@dataclass(frozen=True)
class Start:
    """What every arm of a seed begins with."""

    seed: int
    warm: CausalLM
    """A student of one block, trained on 150 documents."""
    teacher: CausalLM
    """Two blocks, trained on all of them."""
    few: TokenSet
    """Prompts of 40 characters and the text's own continuations, to train on."""
    held: TokenSet
    """The same from documents that nobody saw."""

    def student(self) -> CausalLM:
        """A copy of the warm student that learns."""
        return copy.deepcopy(self.warm).requires_grad_(True)

    def train(self, method: Method, steps: int) -> None:
        """The same order, steps and optimiser for every arm."""
        torch.manual_seed(self.seed)
        train(method, batches(self.few, self.seed + 1), steps, RATE)

    def judged(self, student: CausalLM) -> float:
        """Nats a word that the teacher gives to what a student writes after held-out prompts."""
        torch.manual_seed(self.seed)
        asked = self.held.take(torch.arange(len(self.held)))
        return sequence_nll(self.teacher, answers(student, asked, longest=SAID))


def start(seed: int, data: Path | None) -> Start:
    """The warm student is kept like a teacher: it is the same for all experiments of a seed."""
    pair = prose(data)
    tokenizer = words_of(pair)
    warm = teacher(WIDTH, 1, rows(pair.train.subset(range(DOCUMENTS)), tokenizer), seed, steps=WARM)
    taught = prose_teacher(rows(pair.train, tokenizer), seed)
    few, held = continuations(pair.train, tokenizer, PROMPTS), continuations(pair.test, tokenizer, HELD)
    return Start(seed, warm, taught, few, held)
