"""MiniLM: deep self-attention distillation for task-agnostic compression of pre-trained transformers (Wang, Wei, Dong,
Bao, Yang & Zhou, 2020). https://arxiv.org/abs/2002.10957

    A_a = softmax(Q_a K_a^T / sqrt(d)),  VR_a = softmax(V_a V_a^T / sqrt(d))                      of head a, last layer
    L_AT = 1/(H n) sum_a sum_t KL(A^T_{a,t} || A^S_{a,t}),  L_VR = 1/(H n) sum_a sum_t KL(VR^T_{a,t} || VR^S_{a,t})
    L = L_AT + L_VR

Both relations are n x n whatever the width of a head, so that networks of any depth and width compare without a
projection, if their last layers have as many heads. Then the student is trained on words.
"""

from __future__ import annotations

from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, NonNegative
from limbeck.core.modules import each_of, freeze, unwrap
from limbeck.data.tokens import Tokens
from limbeck.errors import InputError
from limbeck.losses.divergence import kl
from limbeck.losses.vocabulary import word_log_probs
from limbeck.methods.language._attention import Attended, attended, relation, visible
from limbeck.methods.language._shared import mean

CARD = Card(
    key="minilm",
    title="MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers",
    authors="Wenhui Wang, Furu Wei, Li Dong, Hangbo Bao, Nan Yang, Ming Zhou",
    year=2020,
    url="https://arxiv.org/abs/2002.10957",
    repo="https://github.com/microsoft/unilm",
    family="language",
    summary="A small network learns what attends to what in a large one's last layer, then the words themselves.",
    modality="text",
    teacher="frozen",
    signal="relations",
    needs=("features",),
    notes="Both networks need as many heads. Assumed for causal models: the value relation is causal too. The output "
    "head learns nothing from relations, so the second part of the steps is next-word training, in the place of the "
    "paper's fine-tuning. Queries and keys are taken after their rotation, as the layer compares them. A teacher "
    "assistant is a chain of two runs.",
)


def transfer(student: Attended, teacher: Attended, seen: Tensor) -> tuple[Tensor, Tensor]:
    """KL of attention and of value relations, the mean over heads: -> (B, T), twice.

    Args:
        student: of H heads.
        teacher: of H heads.
        seen: (B, T, T) bool, what each token sees.
    """
    scales = [x.value.shape[-1] ** -0.5 for x in (teacher, student)]
    attention = [relation(x.query, x.key, x.scale, seen) for x in (teacher, student)]
    value = [relation(x.value, x.value, scale, seen) for x, scale in zip((teacher, student), scales, strict=True)]
    return kl(*attention).mean(1), kl(*value).mean(1)


class MiniLM(Method):
    """Attention and value relations of the last layers, then next-word cross-entropy."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    share: Fraction = 0.5
    """Of the steps that the relations take; the rest is next-word training. 1: the paper's pre-training alone."""
    values: NonNegative = 1.0
    """Weight of L_VR; 0 leaves attention transfer."""

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        if clock.step >= round(self.share * clock.steps):
            return {"ce": -mean(word_log_probs(self.student(batch), batch.y), batch)}
        with torch.no_grad():
            t = attended(self.teacher, batch.teacher_view)
        s = attended(unwrap(self.student), batch)
        if s.query.shape[1] != t.query.shape[1]:
            heads = f"heads cannot be compared with the teacher's {t.query.shape[1]}; give the student as many"
            raise InputError("student", s.query.shape[1], heads)
        attention, value = transfer(s, t, visible(batch))
        queries = each_of(batch.segment > 0)
        return {"attention": (queries * attention).sum(), "value": self.values * (queries * value).sum()}
