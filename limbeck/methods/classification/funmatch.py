"""Knowledge distillation: a good teacher is patient and consistent (Beyer et al., 2021).

https://arxiv.org/abs/2106.05237

    L = tau^2 KL(softmax(z_T(x~) / tau) || softmax(z_S(x~) / tau)),   x~ = m x_i + (1 - m) x_j,   m ~ U(0, 1)

Distillation as matching of functions: *both* networks see the same pixels, crops and mixup included, no labels are
used, and training is very long.
"""

from __future__ import annotations

from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Method, Positive
from limbeck.core.modules import freeze
from limbeck.data.batches import Images
from limbeck.losses.divergence import distil_kl

CARD = Card(
    key="funmatch",
    title="Knowledge distillation: A good teacher is patient and consistent",
    authors="Lucas Beyer, Xiaohua Zhai, Amélie Royer, Larisa Markeeva, Rohan Anil, Alexander Kolesnikov",
    year=2021,
    url="https://arxiv.org/abs/2106.05237",
    repo="https://github.com/google-research/big_vision",
    family="classification",
    summary="Teacher and student see the very same mixed-up pixels, no labels are used, and training is very long.",
    modality="image",
    teacher="frozen",
    data="unlabelled",
    signal="logits",
    needs=("logits",),
    vanishes=("kd",),
    notes="Plan for many epochs (the paper: 300 to 9600 on ImageNet, 1000 and more on small sets), strong random crops "
    "and a cosine schedule; short runs are better served by labels. A separate view of the teacher is ignored. As in "
    "the released code one m is drawn a batch, folded to [1/2, 1], and each image is mixed with the row before it; its "
    "further settings: Adam 0.03, weight decay 3e-4, gradients clipped at 1, tau 1.",
)


def mixup(x: Tensor) -> Tensor:
    """``m x_i + (1 - m) x_{i-1}`` with one m ~ U(1/2, 1) for the batch (B, ...), from torch's global generator."""
    m = 0.5 + 0.5 * torch.rand(())
    return m.to(x) * x + (1 - m).to(x) * x.roll(1, 0)


class FunMatch(Method):
    """Both networks on the same mixed images; the student matches the teacher's function."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    tau: Positive = 1.0
    """Temperature of both distributions. Paper: 1, 2, 5 or 10 by data set."""
    mixing: bool = True
    """Whether images are mixed. The paper's longest runs need it."""

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        x = mixup(batch.x) if self.mixing else batch.x  # before both networks, so that they see the same pixels
        with torch.no_grad():
            t = self.teacher(x)
        return {"kd": distil_kl(self.student(x), t, self.tau).mean()}
