"""On-policy distillation of language models: learning from self-generated mistakes (Agarwal et al., 2024).
https://arxiv.org/abs/2306.13649

    L = (1 - lmbda) E_(x, y)~data  D(p_T || p_S)(y | x)  +  lmbda E_x E_y~p_S  D(p_T || p_S)(y | x)
    D(p || q)(y | x) = 1/|y| sum_t D(p(. | y_<t, x) || q(. | y_<t, x)),   no gradient through the sampling

D is the generalised Jensen-Shannon divergence, JSD_beta = beta KL(p || m) + (1 - beta) KL(q || m), m = beta p +
(1 - beta) q. It vanishes at beta 0 and 1, where the forward and the reverse KL, its limits, take its place.
"""

from __future__ import annotations

from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, Positive, Weight, value
from limbeck.core.modules import freeze
from limbeck.data.tokens import Tokens
from limbeck.losses.vocabulary import token_loss
from limbeck.methods.language._shared import answers, divergence, drawn_alike

CARD = Card(
    key="gkd",
    title="On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
    authors="Rishabh Agarwal et al.",
    year=2024,
    url="https://arxiv.org/abs/2306.13649",
    repo="https://github.com/huggingface/trl",
    family="language",
    summary="The student writes answers of its own, and is corrected word by word by the teacher.",
    modality="text",
    teacher="frozen",
    data="unlabelled",
    signal="logits",
    loop="on_policy",
    needs=("logits",),
    vanishes=("jsd",),
    notes="A mean over the words of the batch. lmbda 0 with beta 0 is word-level distillation on the data's answers. "
    "TRL's trainer samples at temperature 0.9 and has lmbda 0.5; its beta is this one.",
)


class GKD(Method):
    """Any divergence between forward and reverse KL, on any mixture of the data's and the student's own answers."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    beta: Fraction = 0.5
    """Of the divergence: 0 is the forward KL, 1 the reverse. Paper: 0, 0.1, 0.5, 0.9 or 1, by task."""
    lmbda: Weight = 1.0
    """Share of batches that the student answers itself, 0 to 1 or a schedule. Paper: 1 is best."""
    sample_tau: Positive = 1.0
    """Temperature at which the student's answers are sampled."""
    longest: Count = 128
    """Words of an answer at most."""

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        if drawn_alike(1, batch.x.device)[0] < value(self.lmbda, clock):
            batch = answers(self.student, batch, longest=self.longest, tau=self.sample_tau)
        with torch.no_grad():
            t = self.teacher(batch.teacher_view)
        return {"jsd": token_loss(divergence(self.beta), t, self.student(batch), batch.weight).total}
