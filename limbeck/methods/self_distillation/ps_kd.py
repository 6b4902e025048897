"""Self-knowledge distillation with progressive refinement of targets (Kim, Ji, Yoon & Hwang, 2021).
https://arxiv.org/abs/2006.12000

    target_t(x) = (1 - alpha_t) y + alpha_t p_{t-1}(x),     L = - mean_i sum_c target_{t,i,c} log p_{t,i,c}

p_{t-1}(x) is what the same network said of the same sample the last time it saw it; alpha_t rises linearly to alpha_T.
The gradient at the logits is p_t - target_t.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, field
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, Setting, Weight, value
from limbeck.core.modules import gather
from limbeck.core.schedule import Linear
from limbeck.data.batches import Images
from limbeck.losses.divergence import soft_cross_entropy, soft_log
from limbeck.losses.targets import blend, one_hot
from limbeck.models.classifier import Classifier

CARD = Card(
    key="ps_kd",
    title="Self-Knowledge Distillation with Progressive Refinement of Targets",
    authors="Kyungyul Kim, ByeongMoon Ji, Doyoung Yoon, Sangheum Hwang",
    year=2021,
    url="https://arxiv.org/abs/2006.12000",
    repo="https://github.com/lgcnsai/PS-KD-Pytorch",
    family="self_distillation",
    summary="The labels are blended, more and more, with what the network itself said of the sample an epoch before.",
    modality="image",
    teacher="previous",
    signal="probabilities",
    loop="self",
    notes="Keeps a table of one row of probabilities a training sample, as the released code does. The weight rises "
    "with every step; the paper holds it within an epoch. Gains need label noise or an over-confident network.",
)


class PSKD(Method):
    """One network, one run, targets that soften as it learns."""

    student: Classifier
    _: KW_ONLY
    examples: Count = 1
    """Rows of the training set, hence of the table. A run fills this in."""
    alpha: Weight = Linear(0.0, 0.8)
    """Weight of the network's own earlier prediction. Paper: rises to 0.8 (CIFAR-100) or 0.3 (ImageNet)."""

    table: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.register_buffer("table", torch.zeros(self.examples, self.student.num_classes))

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        z = self.student(batch.x)
        y, before = one_hot(batch.y, z.shape[1]), self.table[batch.index]
        before = torch.where(before.sum(1, keepdim=True) > 0, before, y)  # the first epoch has its labels alone
        target = blend(y, before, value(self.alpha, clock))
        self.table[gather(batch.index)] = gather(z.detach().float().softmax(1))
        return {"ps_kd": soft_cross_entropy(target, soft_log(z)).mean()}

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """One fit, with a table as long as the training set."""
        method = cls(setting.student(), **{**values, "examples": len(setting.data.dataset)})
        setting.fit(method)
        return method.student
