"""LumiNet: the bright side of perceptual knowledge distillation (Hossain et al., 2023).

https://arxiv.org/abs/2310.03669

    L = w CE(y, z_S) + ramp alpha^2 KL(softmax(h_T / tau) || softmax(h_S / tau)),  h = (z - mu) / sqrt(sigma^2 + 1e-5)

The "perception" h standardises every class over the batch: mu and sigma^2 have one entry a class, and the student's get
gradients. What is left of the teacher is how it ranks the samples of a batch within each class.
"""

from __future__ import annotations

from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Method, NonNegative, Positive, Weight, value
from limbeck.core.modules import freeze
from limbeck.core.schedule import Warmup
from limbeck.data.batches import Images
from limbeck.losses.divergence import kl, soft_log
from limbeck.losses.targets import standardise

CARD = Card(
    key="luminet",
    title="LumiNet: The Bright Side of Perceptual Knowledge Distillation",
    authors="Md. Ismail Hossain, M M Lutfe Elahi, Sameera Ramasinghe, Ali Cheraghian, Fuad Rahman, "
    "Nabeel Mohammed, Shafin Rahman",
    year=2023,
    url="https://arxiv.org/abs/2310.03669",
    repo="https://github.com/ismail31416/LumiNet",
    family="classification",
    summary="Compares logits after standardising every class over the batch, so that only the relations between "
    "samples are matched.",
    modality="image",
    teacher="frozen",
    signal="logits",
    needs=("logits",),
    vanishes=("luminet",),
    notes="Defaults are the released code's for CIFAR-100 (alpha 31, tau 4, weight 2 of the labels, ramp over 20 of "
    "240 epochs); its runs differ widely, from alpha 2 and tau 0.7 (ImageNet) to alpha 70 and tau 8. alpha is squared "
    "and takes the place of tau^2. Statistics are each process's own; batches should be large and full: a batch of one "
    "has no signal.",
)


def perceptual_kl(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """KL of the logits (B, K) standardised over the batch (dim 0), softmax over classes (dim 1) -> (B,)."""
    return kl(soft_log(standardise(teacher, 0), tau), soft_log(standardise(student, 0), tau))


class LumiNet(Method):
    """Distils logits that were standardised over the batch, class by class."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    alpha: NonNegative = 31.0
    """Its *square* weighs the distillation."""
    tau: Positive = 4.0
    """Temperature of the standardised logits."""
    ce: NonNegative = 2.0
    """Weight of the labels."""
    ramp: Weight = Warmup(1 / 12)
    """Multiplies the distillation."""

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            t = self.teacher(batch.teacher_x)
        s = self.student(batch.x)
        return {
            "ce": self.ce * F.cross_entropy(s, batch.y),
            "luminet": value(self.ramp, clock) * self.alpha**2 * perceptual_kl(s, t, self.tau).mean(),
        }
