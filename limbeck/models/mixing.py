"""Training on soft labels, and the mixing of images that goes with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.losses.divergence import kl, soft_log

__all__ = ["Mix", "follow", "mixed"]

Mix = Literal["cutmix", "mixup", "none"]


def mixed(x: Tensor, how: Mix) -> tuple[Tensor, Tensor, float]:
    """Images with parts of others: what is seen, who the others are, (B,), and the share that is the image's own.

    ``cutmix`` (Yun et al. 2019, https://arxiv.org/abs/1905.04899): a rectangle of another image, its area U(0, 1);
    ``mixup`` (Zhang et al. 2018, https://arxiv.org/abs/1710.09412): a weighted mean, the weight Beta(0.8, 0.8). One
    draw for the batch.
    """
    other = torch.randperm(len(x))
    if how == "none":
        return x, other, 1.0
    if how == "mixup":
        own = float(torch.distributions.Beta(0.8, 0.8).sample())
        return own * x + (1 - own) * x[other], other, own
    height, width = x.shape[2:]
    side = float((1 - torch.rand(())).sqrt())
    half = int(height * side) // 2, int(width * side) // 2
    row, column = int(torch.randint(height, ())), int(torch.randint(width, ()))
    top, bottom = max(row - half[0], 0), min(row + half[0], height)
    left, right = max(column - half[1], 0), min(column + half[1], width)
    x = x.clone()
    x[:, :, top:bottom, left:right] = x[other, :, top:bottom, left:right]
    return x, other, 1 - (bottom - top) * (right - left) / (height * width)


def follow(
    net: nn.Module, x: Tensor, seen: Callable[[Tensor], tuple[Tensor, Tensor]], *, steps: int, rate: float, batch: int,
    tau: float, weight_decay: float = 0.01,
) -> None:  # fmt: skip
    """Train on soft labels, with AdamW and a cosine: KL(softmax(q / tau) || softmax(f / tau)), without a factor tau^2,
    which AdamW does not see.

    Args:
        net: in place.
        x: (N, C, H, W).
        seen: the images that the network sees and their logits q, of some rows of ``x``.
        steps, rate, weight_decay: of AdamW.
        batch: rows a step; every batch is full, so that its statistics are never of a few images.
        tau: temperature of both.
    """
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=weight_decay)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    net.train()
    left, batch = torch.empty(0, dtype=torch.int64), min(batch, len(x))
    for _ in range(steps):
        if len(left) < batch:
            left = torch.cat([left, torch.randperm(len(x))])
        rows, left = left[:batch], left[batch:]
        images, q = seen(rows)
        kl(soft_log(q, tau), soft_log(net(images), tau)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        plan.step()
    net.eval()
