"""Distilling the knowledge in a neural network (Hinton, Vinyals & Dean, 2015). https://arxiv.org/abs/1503.02531

    L = (1 - alpha) CE(y, softmax(z_S)) + alpha tau^2 KL(softmax(z_T / tau) || softmax(z_S / tau))

The factor tau^2 keeps the soft term's gradient as large as the hard term's whatever the temperature (section 2).
"""

from __future__ import annotations

from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Method, Positive, Weight, value
from limbeck.core.modules import freeze
from limbeck.data.batches import Images
from limbeck.losses.divergence import distil_kl

CARD = Card(
    key="kd",
    title="Distilling the Knowledge in a Neural Network",
    authors="Geoffrey Hinton, Oriol Vinyals, Jeff Dean",
    year=2015,
    url="https://arxiv.org/abs/1503.02531",
    family="classification",
    summary="The student matches the teacher's softened class probabilities as well as the labels.",
    modality="image",
    teacher="frozen",
    signal="logits",
    needs=("logits",),
    vanishes=("kd",),
    notes="The paper matches soft targets with cross-entropy; KL differs from it by the teacher's entropy, a constant.",
)


class KD(Method):
    """Softened teacher probabilities and hard labels, blended."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    tau: Positive = 4.0
    """Temperature of both distributions. Paper: 1 to 20; 4 is the custom for image classifiers."""
    alpha: Weight = 0.9
    """Share of the soft term, 0 to 1 or a schedule."""

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            t = self.teacher(batch.teacher_x)
        s, alpha = self.student(batch.x), value(self.alpha, clock)
        return {
            "ce": (1 - alpha) * F.cross_entropy(s, batch.y),
            "kd": alpha * distil_kl(s, t, self.tau).mean(),
        }
