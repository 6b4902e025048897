"""Reinforcement-aware knowledge distillation for LLM reasoning (Zhang et al., 2026). https://arxiv.org/abs/2602.22495

    log r_i,t = log pi_S(y_i,t) - alpha log pi_old(y_i,t) - (1 - alpha) log pi_T(y_i,t)
    A_i = (R_i - mean R) / (std R + 1e-6)           over the G answers to one prompt, the same for all of its words
    L = - 1/G sum_i 1/|y_i| sum_t min( r A_i, clip(r, 1 - eps, 1 + eps) A_i )  +  beta KL(pi_S || pi_ref)

The reward says whether an answer becomes likelier; the teacher, in the ratio's denominator, how far it may go before
the clip stops it: further for words that the teacher likes better than the student does. alpha 1 is GRPO.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Update
from limbeck.core.modules import freeze, unwrap
from limbeck.data.tokens import Tokens
from limbeck.losses.policy import clipped_surrogate, group_advantage, is_clipped, sampled_kl
from limbeck.losses.vocabulary import word_log_probs
from limbeck.methods.language._shared import Verifier, answers, each_row, exact, mean, repeated

CARD = Card(
    key="rlad",
    title="Reinforcement-aware Knowledge Distillation for LLM Reasoning",
    authors="Zhaoyang Zhang et al.",
    year=2026,
    url="https://arxiv.org/abs/2602.22495",
    family="language",
    summary="Reinforcement learning on answers that can be checked; the teacher says how far each word may move.",
    modality="text",
    teacher="frozen",
    signal="probabilities",
    loop="on_policy",
    needs=("logits",),
    fidelity="reconstruction",
    notes="Assumed: alpha, G, beta; the formula is the paper's, whose text is said to swap its ends. At the first step "
    "the ratio is (pi_old / pi_T)^(1 - alpha), not 1: with a far teacher words start clipped, so watch 'clipped', "
    "and a word of a bad answer that it thinks impossible has a ratio without bound: the paper's form has no gap. "
    "Groups without variance teach nothing; the paper's student has been trained already, hence warm.",
)


def anchored_log_ratio(now: Tensor, old: Tensor, teacher: Tensor, alpha: float, gap: float | None = None) -> Tensor:
    """``log pi_S - alpha log pi_old - (1 - alpha) log pi_T`` of the words said: (B, T) each -> (B, T).

    With a ``gap``, ``log pi_T`` is held within so many nats of ``log pi_old``.
    """
    anchor = teacher if gap is None else torch.clamp(teacher, old - gap, old + gap)
    return now - alpha * old - (1 - alpha) * anchor


class RLAD(Method):
    """Group policy gradient whose trust region is anchored between the old student and the teacher."""

    student: nn.Module
    teacher: nn.Module
    verify: Verifier = exact
    _: KW_ONLY
    alpha: Fraction = 0.5
    """The old student's share of the anchor, against the teacher's; 1 is GRPO."""
    gap: Positive | None = None
    """Nats that the teacher's log-probability of a word may count as away from the old student's; none: any number."""
    eps: Positive = 0.2
    """How far the ratio may go from 1, below 1."""
    group: Count = 8
    """G, answers to a prompt."""
    inner: Count = 1
    """Steps on the same answers."""
    beta: NonNegative = 0.0
    """Weight of the KL to the student as it was at the start; 0 keeps no copy of it. Paper: optional."""
    warm: Fraction = 0.2
    """Share of the run that first learns the data's completions; 0 for a student that has, as the paper's."""
    sample_tau: Positive = 1.0
    """Temperature of answers."""
    longest: Count = 128
    """Words of an answer at most."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.reference = freeze(copy.deepcopy(unwrap(self.student))) if self.beta else None

    def updates(self, batch: Tokens, clock: Clock) -> Generator[Update, bool, None]:
        if clock.fraction < self.warm:
            yield Update({"ce": -mean(word_log_probs(self.student(batch), batch.y), batch)})
            return
        asked = repeated(batch, self.group)
        said = answers(self.student, asked, longest=self.longest, tau=self.sample_tau)
        rewards, mask, weight = self.verify(said, asked), said.mask, each_row(said)
        advantage = group_advantage(rewards.view(-1, self.group)).view(-1, 1)
        with torch.no_grad():
            teacher = word_log_probs(self.teacher(said.teacher_view), said.y)
            first = None if self.reference is None else word_log_probs(self.reference(said), said.y)
        old: Tensor | None = None
        for _ in range(self.inner):
            now = word_log_probs(self.student(said), said.y)
            old = now.detach() if old is None else old
            log_ratio = anchored_log_ratio(now, old, teacher, self.alpha, self.gap)
            terms = {"policy": (weight * clipped_surrogate(log_ratio, advantage, self.eps)).sum()}
            if first is not None:
                terms["kl"] = self.beta * (weight * sampled_kl(now, first)).sum()
            clipped = (mask & is_clipped(log_ratio.detach(), advantage, self.eps)).sum() / mask.sum()
            yield Update(terms, logs={"reward": rewards.mean(), "clipped": clipped})
