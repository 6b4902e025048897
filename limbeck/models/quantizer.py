"""Weights on few values, bucket by bucket (Polino, Pascanu & Alistarh, 2018). https://arxiv.org/abs/1802.05668"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck.models.classifier import Classifier

__all__ = ["Points", "Uniform", "nearest", "quantize", "scale", "settle", "uniform"]


def scale(w: Tensor, bucket: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights in [0, 1], (buckets, bucket), and each bucket's ``alpha`` and ``beta``, (buckets, 1).

    The last bucket is filled up with the last weight. A constant bucket has alpha 0 and the scaled weights 0.
    """
    v = w.flatten()
    size = min(bucket, len(v))
    v = torch.cat([v, v[-1:].expand(-len(v) % size)]).view(-1, size)
    beta, alpha = v.amin(1, keepdim=True), v.amax(1, keepdim=True) - v.amin(1, keepdim=True)
    return (v - beta) / alpha.masked_fill(alpha == 0, 1), alpha, beta


def uniform(w: Tensor, bits: int, bucket: int) -> Tensor:
    """Q(w): the nearest of ``2^bits`` evenly spaced points between the least and the largest weight of a bucket."""
    unit, alpha, beta = scale(w, bucket)
    s = 2**bits - 1
    return (alpha * ((s * unit).round() / s) + beta).flatten()[: w.numel()].view_as(w)


def nearest(w: Tensor, points: Tensor, bucket: int) -> Tensor:
    """Q(w, p): the nearest of ``points`` (P,) in [0, 1], scaled to its bucket; differentiable in the points."""
    unit, alpha, beta = scale(w, bucket)
    points = points.sort().values
    chosen = torch.bucketize(unit, (points[1:] + points[:-1]) / 2)
    return (alpha * points[chosen] + beta).flatten()[: w.numel()].view_as(w)


class Uniform(nn.Module):
    """Quantised weights whose gradient goes straight through to the full-precision ones."""

    def __init__(self, bits: int, bucket: int) -> None:
        super().__init__()
        self.bits, self.bucket = bits, bucket

    def forward(self, w: Tensor) -> Tensor:
        return uniform(w.detach(), self.bits, self.bucket) + (w - w.detach())  # exactly Q(w): the rest is zero


class Points(nn.Module):
    """Fixed weights on points that learn, at first the quantiles of the scaled weights."""

    def __init__(self, w: Tensor, bits: int, bucket: int) -> None:
        super().__init__()
        self.bucket = bucket
        unit = scale(w.detach(), bucket)[0].flatten()[: w.numel()]
        place = torch.linspace(0, unit.numel() - 1, 2**bits, device=w.device, dtype=torch.float64)
        ranked, below = unit.sort().values, place.long()
        self.points = nn.Parameter(ranked[below].lerp(ranked[place.ceil().long()], (place - below).to(w.dtype)))

    def forward(self, w: Tensor) -> Tensor:
        return nearest(w, self.points, self.bucket)


def quantize(model: Classifier, quantizer: Callable[[Tensor], nn.Module], *, ends: bool) -> int:
    """Put a quantiser between every weight and the layer that uses it, and say how many there are.

    Args:
        model: changed in place; vectors (biases, norms) stay as they are.
        quantizer: makes one from a weight.
        ends: whether the first layer and the head are quantised too.
    """
    found = [
        (path, module, name, p)
        for path, module in model.named_modules()
        for name, p in module.named_parameters(recurse=False)
        if p.ndim > 1
    ]
    if not ends:
        found = [part for part in found[1:] if part[0] != model.head]
    for _, module, name, p in found:
        parametrize.register_parametrization(module, name, quantizer(p))
    return len(found)


def settle(model: nn.Module) -> None:
    """Put the quantised weights in place of what they are made from: the model is a plain one again."""
    for module in [m for m in model.modules() if parametrize.is_parametrized(m)]:
        for name in list(module.parametrizations):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
