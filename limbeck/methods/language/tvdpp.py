"""Direct alignment of draft model for speculative decoding with chat-fine-tuned LLMs (Goel et al., 2024).
https://arxiv.org/abs/2403.00858

    TVD(p, q) = 1/2 sum_v |p(v) - q(v)|,    grad TVD = - sum_v q(v) r(v) grad log q(v),    r(v) = 1[p(v) > q(v)]
    L_TVD++ = - mean_t sum_v sg[ q_t(v) A_t(v) ] log q_t(v),    A = (r - mu) / sigma

p is the target, q the draft, v ~ q; mu and sigma are mean and standard deviation of the reward r of words drawn from q.
The sum over v is taken exactly, or by words drawn from q. Exactly, sum_v q grad log q = 0: mu changes nothing and
TVD++ is the gradient of TVD over sigma. With drawn words the baseline mu takes variance away.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, Update
from limbeck.core.modules import freeze, gather
from limbeck.data.tokens import Tokens
from limbeck.losses.vocabulary import TotalVariation, Words, sample_words, token_loss, word_log_probs
from limbeck.methods.language._shared import answers, drawn_alike, mean

CARD = Card(
    key="tvdpp",
    title="Direct Alignment of Draft Model for Speculative Decoding with Chat-Fine-Tuned LLMs",
    authors="Raghavv Goel et al.",
    year=2024,
    url="https://arxiv.org/abs/2403.00858",
    family="language",
    summary="A draft model learns from a large one's answers, by a policy gradient that rewards accepted words.",
    modality="text",
    teacher="frozen",
    data="unlabelled",
    signal="logits",
    loop="pipeline",
    needs=("logits",),
    fidelity="reconstruction",
    notes="Assumed: what mu and sigma are pooled over. Left out: pre-training the draft, which is a run of sft before; "
    "top-p 0.95 in the target's answers. They are written as they are needed; source='data' takes the data's, for "
    "which the target may have written them before. The loss is no divergence: watch the logged acceptance. "
    "On small models it leads the KL divergence early on, and loses the lead in longer runs.",
)
TEMPERATURES = (0.0, 0.3, 0.7, 1.0)
FLOOR = 1e-6


def reward(p: Tensor, q: Tensor, *drawn: Tensor) -> Tensor:
    """``E_v~q r(v)``, exactly or over drawn words (n, k): log-probabilities (n, V), (n, V) -> (n,)."""
    if drawn:
        return (p.gather(-1, drawn[0]) > q.gather(-1, drawn[0])).float().mean(-1)
    return (q.exp() * (p > q)).sum(-1)


def tvd_plus(p: Tensor, q: Tensor, mu: Tensor, sigma: Tensor, *drawn: Tensor) -> Tensor:
    """``- sum_v sg[q(v) (r(v) - mu) / sigma] log q(v)``: (n, V), (n, V), (n,), (n,), perhaps (n, k) words -> (n,)."""
    if drawn:
        p, q = p.gather(-1, drawn[0]), q.gather(-1, drawn[0])
    share = 1 / q.shape[-1] if drawn else q.exp()
    advantage = ((p > q).float() - mu[:, None]) / sigma[:, None]
    return -((share * advantage).detach() * q).sum(-1)


def pooled(rewards: Tensor, batch: Tokens, over: str) -> tuple[Tensor, Tensor]:
    """mu and sigma, (B, T) each, of 0/1 rewards with these means (B, T): sigma^2 = mu (1 - mu)."""
    mask = batch.mask
    if over == "sequence":
        rewards = (mask * rewards).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    elif over == "batch":
        rewards = gather(mean(rewards, batch)[None]).mean()
    mu = rewards.expand(mask.shape)
    return mu, (mu * (1 - mu)).clamp_min(0).sqrt() + FLOOR


class TVDPlusPlus(Method):
    """Nine batches in ten are the target's answers under TVD++, one is the data's own words."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    expectation: Literal["exact", "drawn"] = "exact"
    """Of the policy gradient: over the whole vocabulary, or over words drawn from the draft."""
    draws: Count = 8
    """Words drawn a position, when they are drawn."""
    pool: Literal["position", "sequence", "batch"] = "batch"
    """What mean and standard deviation of the reward are taken over."""
    source: Literal["teacher", "data"] = "teacher"
    """Whose answers are learnt from: the target's at temperature 0, 0.3, 0.7 or 1, or the data's."""
    regular: Fraction = 0.1
    """Share of batches that keep up next-word prediction on the data itself. Paper: 1 in 10, of pre-training text."""
    longest: Count = 128
    """Words of an answer at most."""

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def updates(self, batch: Tokens, clock: Clock) -> Generator[Update, bool, None]:
        which, warmth = drawn_alike(2, batch.x.device)
        if which < self.regular:
            yield Update({"ce": -mean(word_log_probs(self.student(batch), batch.y), batch)})
            return
        if self.source == "teacher":
            tau = TEMPERATURES[int(warmth * len(TEMPERATURES))]
            batch = answers(self.teacher, batch, longest=self.longest, tau=tau)
        with torch.no_grad():
            p = self.teacher(batch.teacher_view)
        q: Words = self.student(batch)
        with torch.no_grad():
            drawn = () if self.expectation == "exact" else (sample_words(q, self.draws).index,)
            mu, sigma = pooled(token_loss(reward, p, q, batch.weight, *drawn).values, batch, self.pool)
            missed = token_loss(TotalVariation(), p, q, batch.weight).total
        loss = token_loss(tvd_plus, p, q, batch.weight, mu, sigma, *drawn).total
        yield Update({"tvdpp": loss}, logs={"acceptance": 1 - missed})
