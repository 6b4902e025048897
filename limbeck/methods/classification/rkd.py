"""Relational knowledge distillation (Park et al., 2019). https://arxiv.org/abs/1904.05068

    L = L_task + l_D mean_ij h(psi_D^S(i, j) - psi_D^T(i, j)) + l_A mean_ijk h(psi_A^S(i, j, k) - psi_A^T(i, j, k))
    psi_D(i, j) = ||f_i - f_j|| / mu,   psi_A(i, j, k) = <e_ij, e_kj>,   e_ij = (f_i - f_j) / ||f_i - f_j||

h is the Huber function with delta 1 (equation 8), mu the mean of the network's own positive distances in the batch.
Only relations among samples are compared, so student and teacher may have features of any width.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Method, Positive, Weight, value
from limbeck.core.modules import Taps, freeze
from limbeck.data.batches import Images
from limbeck.losses.divergence import distil_kl
from limbeck.losses.relation import rkd_angle, rkd_distance

CARD = Card(
    key="rkd",
    title="Relational Knowledge Distillation",
    authors="Wonpyo Park, Dongju Kim, Yan Lu, Minsu Cho",
    year=2019,
    url="https://arxiv.org/abs/1904.05068",
    repo="https://github.com/lenscloth/RKD",
    family="classification",
    summary="The student keeps the distances and angles among a batch's samples as the teacher sees them.",
    modality="image",
    teacher="frozen",
    signal="relations",
    needs=("features", "logits"),
    vanishes=("distance", "angle", "kd"),
    notes="Metric learning in the paper: ce 0, distance 1, angle 2, and often no other loss. The angles of B samples "
    "take B^3 numbers a network: 64 MB at a batch of 256.",
)


class RKD(Method):
    """Distances and angles of a batch, matched, beside the labels."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    distance: Weight = 25.0
    """l_D. Paper: 25 for classification, 1 for metric learning."""
    angle: Weight = 50.0
    """l_A. Paper: 50 for classification, 2 for metric learning."""
    ce: Weight = 1.0
    """Weight of cross-entropy to the labels; 0 learns embeddings from relations alone."""
    kd: Weight = 0.0
    """Weight of Hinton's soft term; the paper's best classifiers add it."""
    tau: Positive = 4.0
    """Temperature of the soft term."""
    feature: Literal["penultimate", "logits"] = "penultimate"
    """Whose relations: the features before the head, or the logits."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.student_tap, self.teacher_tap = Taps(self.student.head + ":in"), Taps(self.teacher.head + ":in")

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            t, [f_t] = self.teacher_tap(self.teacher, batch.teacher_x)
        s, [f_s] = self.student_tap(self.student, batch.x)
        if self.feature == "logits":
            f_s, f_t = s, t
        return {
            "ce": value(self.ce, clock) * F.cross_entropy(s, batch.y),
            "distance": value(self.distance, clock) * rkd_distance(f_s, f_t).mean(),
            "angle": value(self.angle, clock) * rkd_angle(f_s, f_t).mean(),
            "kd": value(self.kd, clock) * distil_kl(s, t, self.tau).mean(),
        }
