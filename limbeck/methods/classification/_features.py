"""Networks that bring a student's features to a teacher's: FitNets' regressor, UNIC's ladder and standardisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck.core.modules import Projector, gather

__all__ = ["Ladder", "Standardiser", "regressor"]


def regressor(source: tuple[int, int, int], target: tuple[int, int, int]) -> nn.Module:
    """Maps (C, H, W) of the guided layer to the hint's (C', H', W').

    A valid convolution of kernel ``H - H' + 1`` (FitNets, section 2.2), which is a linear layer for vectors. Where the
    student's map is the smaller one, of which the paper does not speak: a linear layer from a vector, else 1x1 and
    bilinear.
    """
    extra = source[1] - target[1], source[2] - target[2]
    if min(extra) >= 0:
        return nn.Conv2d(source[0], target[0], (extra[0] + 1, extra[1] + 1))
    if source[1:] == (1, 1):
        size = target[0] * target[1] * target[2]
        return nn.Sequential(nn.Flatten(), nn.Linear(source[0], size), nn.Unflatten(1, target))
    return Projector(source, target)


class Standardiser(nn.Module):
    """Running mean and standard deviation of a teacher's features (C, H, W), one of each a channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def forward(self, t: Tensor) -> Tensor:
        return (t - self.mean) / (self.std + 1e-6)

    def update(self, t: Tensor, momentum: float) -> None:
        """``momentum`` is the weight of the *new* statistic, of a batch (B, C, H, W) on all processes."""
        rows = gather(t).to(self.mean.dtype)
        self.mean.lerp_(rows.mean((0, 2, 3))[:, None, None], momentum)
        self.std.lerp_(rows.std((0, 2, 3), correction=0)[:, None, None], momentum)  # one image has a deviation: 0


class Ladder(nn.Module):
    """The sum of two-layer projectors of several features (B, C, H, W), the last with a hidden layer of its own."""

    def __init__(self, sources: list[tuple[int, ...]], target: tuple[int, ...], hidden: int, last: int) -> None:
        super().__init__()
        widths = [hidden] * (len(sources) - 1) + [last]
        self.rungs = nn.ModuleList(Projector(s, target, width) for s, width in zip(sources, widths, strict=True))

    def forward(self, features: list[Tensor]) -> Tensor:
        return torch.stack([rung(f) for rung, f in zip(self.rungs, features, strict=True)]).sum(0)
