"""DataDAM: efficient dataset distillation with attention matching (Sajedi et al., 2023).
https://arxiv.org/abs/2310.00093

    z_l(x) = A_l / ||A_l||_2,   A_l = vec(sum_c |F_l(x)_c|^p)                      every stage l but the last layer
    L_SAM  = sum_k sum_l || mean_{x in T_k} z_l(x) - mean_{s in S_k} z_l(s) ||_2^2
    L_MMD  = sum_k || mean f_L(T_k) - mean f_L(S_k) ||_2^2
    L      = L_SAM + lambda L_MMD

Every step draws a network anew and never trains it: its attention to real and to synthetic images of a class must agree
on average, and so must its last features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, NonNegative, Positive, Setting
from limbeck.core.modules import Taps, freeze
from limbeck.data.batches import Images
from limbeck.data.images import ImageSet
from limbeck.losses.feature import attention_map
from limbeck.losses.matching import mean_distance
from limbeck.methods.dataset._shared import alike, begun, distilled
from limbeck.models.classifier import Classifier
from limbeck.models.renew import renew
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.use import Descent

CARD = Card(
    key="datadam",
    title="DataDAM: Efficient Dataset Distillation with Attention Matching",
    authors="Ahmad Sajedi, Samir Khaki, Ehsan Amjadian, Lucy Z. Liu, Yuri A. Lawryshyn, Konstantinos N. Plataniotis",
    year=2023,
    url="https://arxiv.org/abs/2310.00093",
    repo="https://github.com/DataDistillation/DataDAM",
    family="dataset",
    summary="Synthetic images whose attention maps and features in untrained networks are those of real images.",
    modality="dataset",
    teacher="none",
    signal="none",
    loop="supervised",
    notes="With attention=0 it is distribution matching (DM). The paper augments by colour, crop, "
    "cutout, flip, scale and rotation, alike for real and synthetic images: colour+crop+erase+flip+rotate. Its "
    "optimiser is SGD with momentum 0.5 at a rate of 1 for sums over classes, which is what the loss is.",
)


class DataDAM(Method):
    """Attention and features of untrained networks, matched class by class.

    Args:
        real: the images to stand for.
        net: the kind of network to look through; its weights are drawn anew every step.
    """

    real: ImageSet
    net: Classifier
    _: KW_ONLY
    per_class: Count = 10
    """Synthetic images a class."""
    attention: NonNegative = 1.0
    """Weight of L_SAM; with 0 it is distribution matching alone."""
    lam: NonNegative = 0.01
    """lambda: weight of L_MMD."""
    p: Positive = 4.0
    """Power of the activations in the attention."""
    factor: Count = 1
    """Side of the square of smaller images that a stored one holds."""
    augment: str = "shift+rotate"
    """What is drawn alike for real and synthetic images, and for training on them."""
    how: Literal["real", "noise"] = "real"
    """What the images are at first."""
    batch: Count = 64
    """Real images a class and step."""

    def __post_init__(self) -> None:
        freeze(self.net)
        self.alike = alike(self.augment, self.real.shape)
        use = Descent(augment=self.augment)
        self.student: SyntheticSet = begun(self.real, self.per_class, how=self.how, factor=self.factor, use=use)

    def loss(self, batch: Images, clock: Clock) -> Mapping[str, Tensor]:
        classes = len(self.student.classes)
        taps = Taps(*self.net.stages, f"{self.net.head}:in")
        renew(self.net).train()
        x, s = self.alike(batch.x, self.student())
        with torch.no_grad():
            _, [*real, f_real] = taps(self.net, x)
        _, [*made, f_made] = taps(self.net, s)
        y = batch.y, self.student.y

        def gaps(a: Tensor, b: Tensor) -> Tensor:
            return mean_distance(a, y[0], b, y[1], classes).sum()

        attended = [gaps(attention_map(r, self.p), attention_map(m, self.p)) for r, m in zip(real, made, strict=True)]
        return {"attention": self.attention * torch.stack(attended).sum(), "mmd": self.lam * gaps(f_real, f_made)}

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> SyntheticSet:
        return distilled(cls, setting, values, values.get("batch", 64))
