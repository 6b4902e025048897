"""Supervised fine-tuning: next-word prediction, the control of every distillation of a language model.

    L = - 1/N sum_t log q(y_t | y_<t, x)        over the N words to learn

Rosenfeld's (1994) maximum-likelihood language modelling, in the form of Radford et al. (2018),
https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf.
"""

from __future__ import annotations

from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Method
from limbeck.data.tokens import Tokens
from limbeck.losses.vocabulary import word_log_probs

CARD = Card(
    key="sft",
    title="Supervised fine-tuning (the control)",
    authors="folklore; Alec Radford et al.",
    year=2018,
    url="https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf",
    family="language",
    summary="Trains the student on the text alone, with no teacher: what every distillation is compared with.",
    modality="text",
    teacher="none",
    signal="none",
    needs=(),
)


class SFT(Method):
    """Next-word cross-entropy on what is to be learnt."""

    student: nn.Module

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        said = word_log_probs(self.student(batch), batch.y)
        return {"ce": -(batch.weight * said).sum()}
