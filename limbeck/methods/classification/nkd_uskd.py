"""From knowledge distillation to self-knowledge distillation (Yang, Zeng, Yuan & Li, 2023).
https://arxiv.org/abs/2303.13005

    NKD:   L = CE(y, S) - T_t log S_t - gamma tau^2 sum_{i != t} N(T)_i log N(S)_i
    USKD:  L = CE(y, S) - alpha P_t log S_t - beta sum_{i != t} P_i log N(S)_i + mu CE(smoothed y, W)

S, T and W are the probabilities of student, teacher and the student's weak head; t is the label. N drops the label's
logit and takes the softmax of the rest, in NKD at temperature tau. USKD makes its targets itself, without gradient:
P_t = 1 + S_t^2 - mean_batch S_t^2, and P_i the normalised Zipf weights 1 / rank of W_i / (1 - W_t) + S_i / (1 - S_t).
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, NonNegative, Positive
from limbeck.core.modules import freeze
from limbeck.data.batches import Images
from limbeck.errors import InputError
from limbeck.losses.decoupled import nkd, uskd
from limbeck.methods.classification._shared import as_map, map_shapes, tap

CARD = Card(
    key="nkd_uskd",
    title="From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and "
    "Customized Soft Labels",
    authors="Zhendong Yang, Ailing Zeng, Chun Yuan, Yu Li",
    year=2023,
    url="https://arxiv.org/abs/2303.13005",
    repo="https://github.com/yzd-v/cls_KD",
    family="classification",
    summary="Matches the teacher's split of probability among the wrong classes apart from its trust in the right one; "
    "or, without a teacher, makes such soft labels from the student's own ranking.",
    modality="image",
    teacher="frozen",
    signal="logits",
    needs=("logits",),
    stationary=("others",),
    notes="Defaults are the paper's for ImageNet; its code has tau 3, gamma 3.5 for CIFAR-100. The code's first NKD "
    "release kept the label among the others; it is left out here. The code ranks with log S_i / (1 - log S_t) where "
    "the paper has S_i / (1 - S_t): the paper's is used. Mixed labels (mixup, CutMix) are not supported.",
)


class NKD_USKD(Method):
    """The label's part and the other classes' part of soft labels, from a teacher (NKD) or from oneself (USKD)."""

    student: nn.Module
    teacher: nn.Module | None = None
    _: KW_ONLY
    variant: Literal["nkd", "uskd"] = "nkd"
    """``nkd`` learns from the teacher; ``uskd`` needs none and ignores one that is given."""
    gamma: NonNegative = 1.5
    """nkd: weight of the other classes."""
    tau: Positive = 1.0
    """nkd: temperature of the other classes; the label's part is at temperature 1."""
    alpha: NonNegative = 1.0
    """uskd: weight of the label's part. Paper: 0.1 to 1."""
    beta: NonNegative = 0.1
    """uskd: weight of the other classes. Paper: 0.05 to 0.2."""
    mu: NonNegative = 0.005
    """uskd: weight of the weak head's own supervision, whose gradient reaches the student."""
    smoothing: Fraction = 0.1
    """uskd: label smoothing of the weak head."""
    stage: str = ""
    """uskd: layer that the weak head reads, averaged over positions; the last stage but one when empty."""

    def __post_init__(self) -> None:
        if self.teacher is not None:
            freeze(self.teacher)
        elif self.variant == "nkd":
            raise InputError("teacher", "none", "was given; nkd learns from one: give it, or choose variant uskd")
        if self.variant == "uskd":
            path = self.stage or self.student.stages[max(len(self.student.stages) - 2, 0)]
            self.tap = tap(self.student, path, "stage")
            [(channels, _, _)] = map_shapes(self.tap, self.student)
            self.weak = nn.Linear(channels, self.student.num_classes).to(self.student.example.device)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        if self.variant == "nkd":
            with torch.no_grad():
                t = self.teacher(batch.teacher_x)
            s = self.student(batch.x)
            target, others = nkd(s, t, batch.y, self.tau)
            return {"ce": F.cross_entropy(s, batch.y), "target": target.mean(), "others": self.gamma * others.mean()}
        s, [feature] = self.tap(self.student, batch.x)
        weak = self.weak(as_map(feature).mean((2, 3)))
        target, ranks = uskd(s, weak, batch.y)
        return {
            "ce": F.cross_entropy(s, batch.y),
            "own_target": self.alpha * target.mean(),
            "own_ranks": self.beta * ranks.mean(),
            "weak": self.mu * F.cross_entropy(weak, batch.y, label_smoothing=self.smoothing),
        }
