"""Regularising feature norm and direction (Wang et al., 2023), "KD++". https://arxiv.org/abs/2305.17007

    e_c = mean_{y = c} t(x) / || . ||
    L   = CE + a tau^2 KL(p_T^tau || p_S^tau) + b mean_n [ 1 - s_n . e_{y_n} / max(||s_n||, ||t_n||) ]

s and t are penultimate embeddings. While ||s|| < ||t|| the gradient with respect to s is -e_c / ||t||, which lengthens
s along its class's mean; beyond that the term is the cosine and only turns s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Method, Positive, Setting, Weight, roles, value
from limbeck.core.modules import Projector, Taps, freeze
from limbeck.core.schedule import Warmup
from limbeck.data.batches import Images
from limbeck.errors import InputError
from limbeck.losses.divergence import distil_kl
from limbeck.losses.feature import norm_direction
from limbeck.methods.classification._shared import class_means

CARD = Card(
    key="nd_loss",
    title="Improving Knowledge Distillation via Regularizing Feature Norm and Direction",
    authors="Yuzhu Wang, Lechao Cheng, Manni Duan, Yongheng Wang, Zunlei Feng, Shu Kong",
    year=2023,
    url="https://arxiv.org/abs/2305.17007",
    repo="https://github.com/WangYZ1608/Knowledge-Distillation-via-ND",
    family="classification",
    summary="The student's features grow to the teacher's length and turn to their class's mean direction.",
    modality="image",
    teacher="frozen",
    signal="features",
    needs=("features", "logits"),
    vanishes=("kd",),
    notes="A pass over the training set finds the class means first. Where widths differ, a linear layer maps the "
    "student's embedding for this term alone; the released code puts batch norm and dropout 0.5 before it. Weights are "
    "those of the code's first pair (ResNet-56 to 20); for others it takes a from 1 to 4 and b from 0.5 to 2.",
)


class NDLoss(Method):
    """KD++: KD and the norm and direction of the penultimate feature."""

    student: nn.Module
    teacher: nn.Module
    means: Tensor  # (K, D), the teacher's mean penultimate feature of every class: see class_means
    _: KW_ONLY
    nd: Weight = 2.0
    """Weight b of the norm and direction term. Released code: 0.5 to 2 for KD++."""
    kd: Weight = Warmup(1 / 12)
    """Weight a of the soft term. Released code: up to 1, over the first 20 of 240 epochs."""
    tau: Positive = 4.0
    """Temperature. Paper: 4 on CIFAR-100, 1 on ImageNet."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.student_tap, self.teacher_tap = Taps(self.student.head + ":in"), Taps(self.teacher.head + ":in")
        [narrow] = self.student_tap.shapes(self.student, self.student.example)
        [wide] = self.teacher_tap.shapes(self.teacher, self.teacher.example)
        if self.means.shape != (expected := (self.teacher.num_classes, *wide)):
            raise InputError("means", tuple(self.means.shape), f"must have the shape {expected}: see class_means")
        self.register_buffer("directions", F.normalize(self.means.detach()).to(self.student.example.device))
        self.adapter = (nn.Identity() if narrow == wide else Projector(narrow, wide)).to(self.student.example.device)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            t, [f_t] = self.teacher_tap(self.teacher, batch.teacher_x)
        s, [f_s] = self.student_tap(self.student, batch.x)
        return {
            "ce": F.cross_entropy(s, batch.y),
            "kd": value(self.kd, clock) * distil_kl(s, t, self.tau).mean(),
            "nd": value(self.nd, clock) * norm_direction(self.adapter(f_s), f_t, self.directions[batch.y]).mean(),
        }

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """One fit, after a pass of the teacher over the unaugmented training set."""
        given = roles(cls, setting)
        method = cls(**given, means=class_means(given["teacher"], setting.data.plain()), **values)
        setting.fit(method)
        return method.student
