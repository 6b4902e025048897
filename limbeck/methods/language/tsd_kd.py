"""Explain in your own words: improving reasoning via token-selective dual knowledge distillation (Kim & Baek, 2026).
https://arxiv.org/abs/2603.13260

    L = L_dir + L_ent + alpha L_ind,     on answers of the student's own
    L_dir = mean_t sg[ sigmoid(H_S,t - H_T,t) ] JSD_beta(p_T || p_S)_t
    L_ind = mean_{t <= d} - sum_k [ s_(k) - log sum_{j >= k} exp s_(j) ]
            d the least with sum_{t <= d} H_S,t >= c sum_t H_S,t
    L_ent = mean H_S,t over the t with H_S,t >= their quantile

H is the entropy of the next word; s_(1..K) are the student's logits of its K likeliest words, in the teacher's order.
"""

from __future__ import annotations

from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Weight, value
from limbeck.core.modules import each_of, freeze
from limbeck.data.tokens import Tokens
from limbeck.losses.vocabulary import Words, token_loss, top_k_words, word_entropy
from limbeck.methods.language._shared import answers, divergence, drawn_alike

CARD = Card(
    key="tsd_kd",
    title="Explain in Your Own Words: Improving Reasoning via Token-Selective Dual Knowledge Distillation",
    authors="Minsang Kim, Seung Jun Baek",
    year=2026,
    url="https://arxiv.org/abs/2603.13260",
    repo="https://github.com/kmswin1/TSD-KD",
    family="language",
    summary="The teacher ranks the student's own ideas at an answer's opening, and corrects the words it is unsure of.",
    modality="text",
    teacher="frozen",
    data="unlabelled",
    signal="logits",
    loop="on_policy",
    needs=("logits",),
    vanishes=("direct",),
    notes="The released code sums the ranking loss over j <= k, which is lower for the reversed order; here it is the "
    "Plackett-Luce likelihood of the text. It also has one opening for the whole batch and counts padding in the "
    "entropy term; here every answer has its own and padding has none. Its one threshold is both c and the quantile. "
    "Entropy and ranking pull far harder than the gated divergence: a student that is often wrong grows sure of it.",
)


def list_mle(ranked: Tensor) -> Tensor:
    """``- sum_k [ s_k - log sum_{j >= k} exp s_j ]`` (Xia et al., 2008): scores (..., K), best first, -> (...)."""
    rest = ranked.flip(-1).logcumsumexp(-1).flip(-1)
    return (rest - ranked).sum(-1)


def ranking(p: Tensor, q: Tensor, candidates: Tensor) -> Tensor:
    """``list_mle`` of the student's candidates in the teacher's order: (n, V), (n, V), (n, K) words -> (n,)."""
    order = p.gather(-1, candidates).argsort(dim=-1, descending=True, stable=True)
    return list_mle(q.gather(-1, candidates.gather(-1, order)))


def opening(entropy: Tensor, mask: Tensor, c: float) -> Tensor:
    """(B, T) bool: each row's shortest beginning with a share ``c`` of its entropy, (B, T) >= 0 and where it counts."""
    held = (entropy * mask).cumsum(1)
    return mask & (held - entropy * mask < c * held[:, -1:])


class TSDKD(Method):
    """Gated divergence, a ranking of the opening, and confidence, on the student's own answers."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    beta: Fraction = 0.9
    """Of the divergence, the teacher's weight in the mixture: 0 is the forward KL, 1 the reverse."""
    alpha: NonNegative = 0.1
    """Weight of the ranking."""
    c: Fraction = 0.1
    """Share of an answer's entropy that its opening holds, where candidates are ranked."""
    candidates: Count = 10
    """K, words that the student puts forward."""
    quantile: Fraction = 0.1
    """Words below this quantile of the student's entropy are left out of the entropy term. 1 keeps the one highest."""
    lmbda: Weight = 1.0
    """Share of batches that the student answers itself, 0 to 1 or a schedule."""
    sample_tau: Positive = 1.0
    """Temperature of the student's answers."""
    longest: Count = 128
    """Words of an answer at most."""

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        if drawn_alike(1, batch.x.device)[0] < value(self.lmbda, clock):
            batch = answers(self.student, batch, longest=self.longest, tau=self.sample_tau)
        mask = batch.mask
        s: Words = self.student(batch)
        with torch.no_grad():
            t: Words = self.teacher(batch.teacher_view)
            h_t, top = word_entropy(t), top_k_words(s, min(self.candidates, s.words)).index
        h_s = word_entropy(s)
        gate, begins = (h_s.detach() - h_t).sigmoid(), opening(h_s.detach(), mask, self.c)
        unsure = mask & (h_s.detach() >= h_s.detach()[mask].quantile(self.quantile))
        return {
            "direct": token_loss(divergence(self.beta), t, s, batch.weight * gate).total,
            "entropy": (each_of(unsure) * h_s).sum(),
            "indirect": self.alpha * token_loss(ranking, t, s, each_of(begins), top).total,
        }
