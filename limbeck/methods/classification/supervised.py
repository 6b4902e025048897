"""Training on labels alone: the control of every distillation.

L = CE(y, z_S)
"""

from __future__ import annotations

from dataclasses import KW_ONLY

from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method
from limbeck.data.batches import Images

CARD = Card(
    key="supervised",
    title="Supervised training (the control)",
    authors="folklore",
    year=1986,
    url="https://www.nature.com/articles/323533a0",
    family="classification",
    summary="Trains the student on labels alone, with no teacher: what every distillation is compared with.",
    modality="image",
    teacher="none",
    signal="none",
    needs=(),
)


class Supervised(Method):
    """Cross-entropy to the labels, in nats, averaged over the batch."""

    student: nn.Module
    _: KW_ONLY
    smoothing: Fraction = 0.0
    """Label smoothing: the share of the target spread evenly over all classes."""

    def loss(self, batch: Images, clock: Clock) -> Tensor:
        return F.cross_entropy(self.student(batch.x), batch.y, label_smoothing=self.smoothing)
