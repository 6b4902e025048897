"""Towards cross-tokenizer distillation: the universal logit distillation loss (Boizard et al., 2024).
https://arxiv.org/abs/2402.12030

    L = CE(y, p_S) + lambda 1/B sum_b 1/n_b sum_(i <= n_b) ULD_i,     n_b = min(|y_T|, |y_S|)
    ULD_i = sum_j | sort(p_S(. | y_<i))_j - sort(p_T(. | y_<i))_j |,  the smaller vocabulary padded with zeros

With a cost of 1 between any two different words, the Wasserstein distance of two distributions whose words nobody has
matched is the L1 distance of their sorted probabilities. Token i of the student's answer meets token i of the
teacher's: the loss tells how sure to be, never of which word, which the labels do.
"""

from __future__ import annotations

from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Method, NonNegative, Positive
from limbeck.core.modules import freeze
from limbeck.data.tokens import Tokens
from limbeck.errors import InputError
from limbeck.losses.vocabulary import Sampled, token_values, word_log_probs
from limbeck.methods.language._shared import mean

CARD = Card(
    key="uld",
    title="Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs",
    authors="Nicolas Boizard, Kevin El Haddad, Céline Hudelot, Pierre Colombo",
    year=2024,
    url="https://arxiv.org/abs/2402.12030",
    repo="https://github.com/Nicolas-BZRD/llm-recipes",
    family="language",
    summary="From a teacher with other words the student learns how sure to be: sorted probabilities are compared.",
    modality="text",
    teacher="frozen",
    signal="probabilities",
    needs=("logits",),
    tokenizers="any",
    notes="The paper's data are answers that the teacher generated: make them first. skip_eos and the two temperatures "
    "are the released code's. Aligned by index, so the two drift apart where one tokenizer writes more tokens.",
)


def sorted_distance(p: Tensor, q: Tensor) -> Tensor:
    """``sum_j |sort(p)_j - sort(q)_j|``, in [0, 2], of probabilities (n, V) and (n, W) -> (n,)."""
    p, q = (x.sort(-1, descending=True).values for x in (p, q))
    room = max(p.shape[-1], q.shape[-1])
    p, q = (nn.functional.pad(x, (0, room - x.shape[-1])) for x in (p, q))  # after the sort: zeros are the least likely
    return (p - q).abs().sum(-1)


def paired(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The i-th word to learn of one mask (B, T) with the i-th of the other (B, S), as far as both go.

    Returns:
        Two masks with as many words in each row, and the weights 1 / (B n_b) of these pairs, row by row.
    """
    counts = torch.minimum(ours.sum(1), theirs.sum(1))[:, None]
    ours, theirs = (mask & (mask.cumsum(1) <= counts) for mask in (ours, theirs))
    return ours, theirs, (1 / (len(ours) * counts.clamp(min=1))).expand(ours.shape)[ours]


class ULD(Method):
    """Labels, and the sorted probabilities of a teacher with any vocabulary."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    weight: NonNegative = 1.5
    """lambda, of the distance. Released runs: 1.5; 0.1 to 3 was tried."""
    labels: NonNegative = 1.0
    """Weight of the cross-entropy, without which nothing says which word is which."""
    tau: Positive = 1.0
    """Temperature of the student."""
    teacher_tau: Positive = 1.0
    """Temperature of the teacher."""
    skip_eos: bool = False
    """Leave out the last word to learn of every row, the end of text, on both sides."""

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        seen = batch.teacher_view
        if batch.view is not None and (batch.packed or seen.packed):
            raise InputError("pack", True, "rows pair words of different documents; two tokenizers need --no-pack")
        with torch.no_grad():
            signal = self.teacher(seen)
        if isinstance(signal, Sampled):
            raise InputError("teacher", "sampled words", "have no order of probabilities; store topk or hidden")
        words = self.student(batch)
        ours, theirs, weight = paired(*((_but_last(x.mask) if self.skip_eos else x.mask) for x in (batch, seen)))
        signal = signal.rows(theirs)

        def distance(q: Tensor, at: slice) -> Tensor:
            p = signal.rows(torch.arange(at.start, at.start + len(q), device=q.device)).log_probs(self.teacher_tau)
            return sorted_distance(p.exp(), q.exp())

        found = token_values(words.rows(ours), distance, self.tau)
        ce = -mean(word_log_probs(words, batch.y), batch)
        return {"ce": self.labels * ce, "uld": self.weight * (weight * found).sum()}


def _but_last(mask: Tensor) -> Tensor:
    return mask & (mask.cumsum(1) < mask.sum(1, keepdim=True))
