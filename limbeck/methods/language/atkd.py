"""ATKD: revisiting knowledge distillation for autoregressive language models (Zhong et al., 2024).
https://arxiv.org/abs/2402.11890

    KL(p || q) = TCKD + (1 - p(y)) NCKD                          at every word (DKD; Zhao et al., 2022)
    u = 1 - p(y),    easy: u < median of the batch,    hard: the others
    L = lambda mean_easy NCKD + (1 - lambda) mean_hard (TCKD + NCKD)

p is the teacher, y the next word of the text. Where the teacher is sure of y, imitating how sure it is teaches nothing
but confidence: there only its opinion of the other words is taught, and everywhere without the factor 1 - p(y).
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method
from limbeck.core.modules import each_of, freeze
from limbeck.data.tokens import Tokens
from limbeck.losses.vocabulary import Decoupled, token_loss

CARD = Card(
    key="atkd",
    title="Revisiting Knowledge Distillation for Autoregressive Language Models",
    authors="Qihuang Zhong et al.",
    year=2024,
    url="https://arxiv.org/abs/2402.11890",
    repo="https://github.com/WHU-ZQH/ATKD",
    family="language",
    summary="Words that the teacher is sure of teach what else could stand there; the others teach everything.",
    modality="text",
    teacher="frozen",
    signal="logits",
    needs=("logits",),
    vanishes=("atkd",),
    notes="Trains on the words of the data; for answers of the teacher's or the student's own, make them the data. The "
    "median is that of one batch, so accumulated parts are divided each by its own. lambda 0.2 is from memory. No "
    "cross-entropy, as in the released code, from which the reverse direction is.",
)


def gate(unsure: Tensor, mask: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """Weights of TCKD and of NCKD from how unsure the teacher is, at the words of a mask: (B, T), (B, T) -> 2 x (B, T).

    Those of NCKD sum to one where both groups have words; a group without any has weight 0.
    """
    hard = mask & (unsure >= unsure[mask].median())
    easy = mask & ~hard
    on_hard, on_easy = (
        share * each_of(group) for share, group in ((1 - lam, hard), (lam, easy))
    )  # fmt: skip
    return on_hard, on_easy + on_hard


class ATKD(Method):
    """Decoupled KL whose parts are gated by the teacher's uncertainty."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    lam: Fraction = 0.2
    """lambda, the weight of the easy half."""
    direction: Literal["forward", "reverse"] = "forward"
    """``reverse`` swaps student and teacher in both the divergences and the uncertainty."""

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            signal = self.teacher(batch.teacher_view)
        words, weight = self.student(batch), batch.mask.float()
        with torch.no_grad():
            unsure = token_loss(self._unsure, signal, words, weight, batch.y).values
        target, rest = gate(unsure, batch.mask, self.lam)
        return {"atkd": token_loss(self._apart, signal, words, weight, batch.y, target, rest).total}

    def _unsure(self, p: Tensor, q: Tensor, labels: Tensor) -> Tensor:
        """(n, V), (n, V), (n,) -> (n,): the mass of all other words."""
        sure = p if self.direction == "forward" else q
        return -torch.expm1(sure.gather(-1, labels[:, None])[:, 0])

    def _apart(self, p: Tensor, q: Tensor, *weighed: Tensor) -> Tensor:
        """(n, V), (n, V) and three (n,) -> (n,)."""
        return Decoupled()(p, q, *weighed) if self.direction == "forward" else Decoupled()(q, p, *weighed)
