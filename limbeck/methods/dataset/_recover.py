"""The engine of the methods that recover images from a trained network (SRe2L, Yin et al. 2023,
https://arxiv.org/abs/2306.13092): images of which the network is sure, and under which its batch norms see the
statistics that they have kept.

    L(x) = CE(f(A(x)), y) + r_bn sum_l k_l ( ||mu_l(A(x)) - mu_l^BN||_2 + ||sigma_l^2(A(x)) - var_l^BN||_2 ),   k_1 = 10

A crops, turns and rolls. As in the released code of all of them, statistics are of one image of every class, a *group*,
and a group has one draw of A. All groups are recovered side by side, which for each of them is the same as alone.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.method import Setting
from limbeck.core.modules import Taps
from limbeck.data.batches import Batches
from limbeck.data.crops import resized_crop, rolled
from limbeck.data.images import ImageSet
from limbeck.losses.statistics import statistics_distance
from limbeck.models.batch_norm import batch_norms
from limbeck.models.classifier import Classifier
from limbeck.models.synthetic import Plain, SyntheticSet
from limbeck.models.use import TeacherLabels

__all__ = ["Recovered", "clip", "grouped", "recovered", "right", "shaken", "trained"]


class Recovered(NamedTuple):
    """What a network says of groups of images.

    Args:
        logits: (B, K).
        ce: (groups,), cross-entropy with the classes that the images are made for.
        bn: (groups,), distances of the statistics, summed over the batch norms.
    """

    logits: Tensor
    ce: Tensor
    bn: Tensor


def grouped(made: SyntheticSet) -> tuple[Tensor, Tensor, int]:
    """A set's images, the first of every class before the second of every class, their classes, and how many groups."""
    x, y, classes = made(), made.y, len(made.classes)
    order = torch.arange(len(x), device=x.device).reshape(classes, -1).T.flatten()
    return x[order], y[order], len(x) // classes


def shaken(x: Tensor, groups: int, lower: float, *, upper: float = 1.0, flip: bool, jitter: float) -> Tensor:
    """A: a resized crop of an area in [lower, upper], perhaps turned, then rolled by up to ``jitter`` of the height."""
    return rolled(resized_crop(x, lower, upper, flip=flip, groups=groups), round(jitter * x.shape[2]), groups=groups)


def recovered(teacher: Classifier, x: Tensor, y: Tensor, groups: int, first: float) -> Recovered:
    """Run groups of consecutive images through a frozen network.

    Args:
        first: k_1, weight of the first batch norm; the others have 1.
    """
    norms = batch_norms(teacher)
    logits, inputs = Taps(*(f"{path}:in" for path in norms))(teacher, x)
    ce = F.cross_entropy(logits, y, reduction="none").unflatten(0, (groups, -1)).mean(1)
    gaps = [
        statistics_distance(f, m.running_mean, m.running_var, groups)  # type: ignore[arg-type]
        for f, m in zip(inputs, norms.values(), strict=True)
    ]
    return Recovered(logits, ce, first * gaps[0] + torch.stack(gaps).sum(0) - gaps[0])


@torch.no_grad()
def clip(made: SyntheticSet) -> None:
    """Pixels back into [0, 1], after every step."""
    assert isinstance(made.images, Plain)
    made.images.pixels.clamp_(0, 1)


@torch.no_grad()
def right(net: nn.Module, data: ImageSet) -> Tensor:
    """Which images a network gets right, (N,) bool, on the CPU."""
    device = next(net.parameters()).device
    plain = Batches(data, 256, shuffle=False)
    return torch.cat([net(b.x.to(device)).argmax(1).cpu() == b.y for b in plain])


def trained(setting: Setting, made: SyntheticSet) -> nn.Module:
    """One of a run's networks, trained on a set in the set's own way, for no more steps than the run's."""
    net, use = setting.student().to(made.stored_y.device), copy.copy(made.use)
    assert isinstance(use, TeacherLabels)
    use.steps = min(use.steps, setting.steps)
    use(net, made)
    return net
