"""Regularising feature norm and direction (Wang et al., 2023), "KD++". https://arxiv.org/abs/2305.17007

    e_c = mean_{y = c} t(x) / || . ||
    L   = CE + a tau^2 KL(p_T^tau || p_S^tau) + b mean_n [ 1 - s_n . e_{y_n} / max(||s_n||, ||t_n||) ]

s and t are penultimate embeddings. While ||s|| < ||t|| the denominator is a constant: the gradient with respect to s is
-e_c / ||t||, which lengthens s along its class's mean; beyond that the term is the cosine and only turns s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
from limbeck.models.classifier import Classifier

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


@torch.no_grad()
def class_means(teacher: Classifier, batches: Iterable[Images]) -> Tensor:
    """The teacher's mean penultimate feature of every class in eval mode, (K, D); zeros where there are no samples."""
    tap, training = Taps(teacher.head + ":in"), teacher.training
    [(width,)] = tap.shapes(teacher, teacher.example)
    sums = torch.zeros(teacher.num_classes, width, device=teacher.example.device)
    counts = torch.zeros_like(sums[:, :1])
    teacher.eval()
    for batch in batches:
        batch = batch.to(sums.device)
        known = batch.y >= 0
        _, [feature] = tap(teacher, batch.x)
        sums.index_add_(0, batch.y[known], feature[known].to(sums.dtype))
        counts += F.one_hot(batch.y[known], len(sums)).sum(0)[:, None]
    teacher.train(training)
    return sums / counts.clamp_min(1)


class NDLoss(Method):
    """KD++: KD and the norm and direction of the penultimate feature.

    Args:
        means: (K, D) the teacher's mean penultimate feature of every class, see :func:`class_means`.
    """

    student: nn.Module
    teacher: nn.Module
    means: Tensor
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
        [narrow], [wide] = (
            tap.shapes(model, model.example)
            for tap, model in ((self.student_tap, self.student), (self.teacher_tap, self.teacher))
        )
        expected = (self.teacher.num_classes, *wide)
        if tuple(self.means.shape) != expected:
            raise InputError("means", tuple(self.means.shape), f"must have the shape {expected}: see class_means")
        device = self.student.example.device
        self.register_buffer("directions", F.normalize(self.means.detach()).to(device))
        self.adapter = (nn.Identity() if narrow == wide else Projector(narrow, wide)).to(device)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            t, [f_t] = self.teacher_tap(self.teacher, batch.teacher_x)
        s, [f_s] = self.student_tap(self.student, batch.x)
        nd = norm_direction(self.adapter(f_s), f_t, self.directions[batch.y])
        return {
            "ce": F.cross_entropy(s, batch.y),
            "kd": value(self.kd, clock) * distil_kl(s, t, self.tau).mean(),
            "nd": value(self.nd, clock) * nd.mean(),
        }

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """One fit, after a pass of the teacher over the unaugmented training set."""
        given = roles(cls, setting)
        method = cls(**given, means=class_means(given["teacher"], setting.data.plain()), **values)
        setting.fit(method)
        return method.student
