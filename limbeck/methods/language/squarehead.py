"""Sparse finetuning for inference acceleration of large language models (Kurtic, Kuznedelev, Frantar, Goin & Alistarh,
2023). https://arxiv.org/abs/2310.06927

    L_feat = 1/L sum_l ||H_S^l - H_T^l||^2 / (||H_T^l||^2 + eps)                over the words to learn
    L = w_task CE(y, q) + w_logit tau^2 KL(p_T || p_S) + w_feat L_feat
    W <- W * M  after every update

H^l is what block l writes; the teacher is the dense network, the student its own sparse copy, so that layers match one
to one. Dividing by the teacher's energy makes all layers weigh alike, although late ones are far larger.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Setting, Update
from limbeck.core.modules import Taps, freeze, unwrap
from limbeck.data.tokens import Tokens
from limbeck.losses.vocabulary import ForwardKL, token_loss, word_log_probs
from limbeck.methods.language._shared import mean, original
from limbeck.models.surgery import Masks, sparsify, truncate

CARD = Card(
    key="squarehead",
    title="Sparse Finetuning for Inference Acceleration of Large Language Models",
    authors="Eldar Kurtic, Denis Kuznedelev, Elias Frantar, Michael Goin, Dan Alistarh",
    year=2023,
    url="https://arxiv.org/abs/2310.06927",
    repo="https://github.com/IST-DASLab/SparseFinetuning",
    family="language",
    summary="A sparse copy of a fine-tuned model learns to reproduce the dense model's hidden states, layer by layer.",
    modality="text",
    teacher="frozen",
    signal="features",
    needs=("features", "logits", "weights"),
    loop="pipeline",
    fidelity="reconstruction",
    notes="The run's student is not used: the student is a copy of the teacher, of its size, with zeros. Pruned by "
    "magnitude, in every linear layer of the blocks alike; the paper prunes language models by SparseGPT. Weights of "
    "the terms are assumed. The released code's older script takes an un-normalised norm; that is not SquareHead.",
)


def square_head(student: Tensor, teacher: Tensor, eps: float = 1e-8) -> Tensor:
    """``||S - T||^2 / (||T||^2 + eps)`` of some tokens' states (N, D), in float32 -> ()."""
    student, teacher = student.float(), teacher.float()
    return (student - teacher).square().sum() / (teacher.square().sum() + eps)


class SquareHead(Method):
    """Labels and normalised hidden states, for a student whose zeros stay."""

    student: nn.Module
    teacher: nn.Module
    masks: Masks | None = None
    _: KW_ONLY
    sparsity: Fraction = 0.75
    """Share of zeros in the linear layers of the blocks, below 1. Paper: 0.5 to 0.8."""
    levels: Count = 1
    """Prunings, each followed by its part of the steps; what is left falls by the same factor each time."""
    task: NonNegative = 1.0
    """w_task, of the labels."""
    logit: NonNegative = 0.0
    """w_logit, of the teacher's words: 0 in SquareHead; with w_feat 0 it is ordinary distillation."""
    feat: NonNegative = 1.0
    """w_feat, of the hidden states."""
    tau: Positive = 1.0
    """Temperature of the KL."""

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def terms(self, batch: Tokens) -> dict[str, Tensor]:
        blocks = Taps(*unwrap(self.student).blocks)
        with torch.no_grad():
            t, theirs = blocks(self.teacher, batch.teacher_view)
        words, ours = blocks(self.student, batch)
        apart = [square_head(s[batch.mask], h[batch.mask]) for s, h in zip(ours, theirs, strict=True)]
        terms = {
            "ce": -self.task * mean(word_log_probs(words, batch.y), batch),
            "feat": self.feat * torch.stack(apart).mean(),
        }
        if self.logit:
            weight = self.logit * self.tau**2 * batch.weight
            terms["kd"] = token_loss(ForwardKL(), t, words, weight, tau=self.tau).total
        return terms

    def updates(self, batch: Tokens, clock: Clock) -> Generator[Update, bool, None]:
        """One step, after which what was pruned is zero again: momentum would bring it back."""
        taken = yield Update(self.terms(batch))
        if taken and self.masks is not None:
            self.masks.put_on(unwrap(self.student))

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Prune, train, prune on."""
        dense = original(setting)
        method = cls(truncate(dense, range(dense.depth)), dense, **values)
        for level in range(1, method.levels + 1):
            method.masks = sparsify(method.student, 1 - (1 - method.sparsity) ** (level / method.levels))
            share = setting.steps * level // method.levels - setting.steps * (level - 1) // method.levels
            setting.fit(method, name=f"level-{level}", steps=share)
        return method.student
