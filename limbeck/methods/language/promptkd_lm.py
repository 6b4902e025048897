"""PromptKD: distilling student-friendly knowledge for generative language models via prompt tuning (Kim, Jang & Yang,
2024). https://arxiv.org/abs/2402.12842

    prompt:   L_P = 1/N sum_t KL(p(. | P, x, y_<t) || sg q)  +  c (1 - s/S) KL(p(. | P, x, y_<t) || sg p(. | x, y_<t))
    student:  L_S = 1/N sum_t KL(q || sg p(. | P, x, y_<t)),       y ~ q

P are m vectors before the frozen teacher's input embeddings, the only thing of it that moves: towards the student, and
held at first by what the teacher says without them. q is the student; s of S steps are done.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import KW_ONLY

import torch
from torch import nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, Positive, Update, Weight, value
from limbeck.core.modules import freeze, unwrap
from limbeck.core.schedule import Linear
from limbeck.data.tokens import Tokens
from limbeck.errors import InputError
from limbeck.losses.vocabulary import ReverseKL, Words, token_loss
from limbeck.methods.language._shared import answers
from limbeck.models.causal_lm import CausalLM

CARD = Card(
    key="promptkd_lm",
    title="PromptKD: Distilling Student-Friendly Knowledge for Generative Language Models via Prompt Tuning",
    authors="Gyeongman Kim, Doohyuk Jang, Eunho Yang",
    year=2024,
    url="https://arxiv.org/abs/2402.12842",
    repo="https://github.com/gmkim-ai/PromptKD",
    family="language",
    summary="A few learned vectors before the teacher's input make it speak so that the student can follow.",
    modality="text",
    teacher="frozen",
    data="unlabelled",
    signal="logits",
    loop="alternating",
    needs=("weights",),
    notes="The student starts from a fine-tuned model and has no cross-entropy term. Both players have the run's "
    "learning rate, as the paper's have for its base student. The teacher reads every answer three times.",
)


class PromptKDLM(Method):
    """Two players: a soft prompt of the teacher, and the student, on the student's own answers."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    prompt_length: Count = 7
    """m, vectors of the prompt."""
    prompt_text: str = "Suppose you are a student."
    """What the vectors start as: the embeddings of this, repeated or cut to m."""
    c: Weight = Linear(1.0, 0.0)
    """Weight that holds the prompted teacher to the teacher itself; the paper's c (1 - s/S) with c 1."""
    sample_tau: Positive = 1.0
    """Temperature of the student's answers."""
    longest: Count = 128
    """Words of an answer at most."""

    def __post_init__(self) -> None:
        teacher = unwrap(freeze(self.teacher))
        if not isinstance(teacher, CausalLM):
            raise InputError("teacher", type(teacher).__name__, "takes no soft prompt; give a model in memory")
        self.room = teacher.context - self.prompt_length
        if self.room < 1:
            raise InputError("prompt_length", self.prompt_length, f"fills the teacher's {teacher.context} positions")
        words = teacher.tokenizer(self.prompt_text, add_special_tokens=False).input_ids or [teacher.eos]
        ids = [words[k % len(words)] for k in range(self.prompt_length)]
        self.prompt = nn.Parameter(teacher.embed(torch.tensor(ids, device=teacher.device)).detach().clone())

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": [p for p in self.student.parameters() if p.requires_grad], "prompt": [self.prompt]}

    def prompted(self, batch: Tokens) -> Words:
        """What the teacher says of a batch after the prompt."""
        teacher = unwrap(self.teacher)
        assert isinstance(teacher, CausalLM)
        return teacher(batch, prefix=self.prompt)

    def updates(self, batch: Tokens, clock: Clock) -> Generator[Update, bool, None]:
        batch = answers(self.student, batch, longest=self.longest, tau=self.sample_tau)
        x, y, segment = (part[:, : self.room] for part in batch[:3])  # what the teacher's context has room for
        batch = batch._replace(x=x, y=y, segment=segment)
        q: Words = self.student(batch)
        with torch.no_grad():
            plain = self.teacher(batch)
        held = value(self.c, clock) * batch.weight
        p = self.prompted(batch)
        near = token_loss(ReverseKL(), q._replace(hidden=q.hidden.detach()), p, batch.weight).total  # KL(p || q)
        kept = token_loss(ReverseKL(), plain, p, held).total
        yield Update({"friendly": near, "held": kept}, "prompt")
        with torch.no_grad():
            p = self.prompted(batch)
        yield Update({"kl": token_loss(ReverseKL(), p, q, batch.weight).total})
