"""Networks that were never trained: their features tell samples apart well enough to compare two sets of them.

For images (C, H, W) convolutions, at half the size from level to level as long as four pixels are left; for anything
else a perceptron of the flattened sample. Without normalisation: what differs between samples is not divided away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["RandomFeatures"]


class RandomFeatures(nn.Module):
    """A frozen random network; called with samples (B, *shape), it answers with every level's features.

    Args:
        shape: of one sample.
        width: of the first level; images double it at every level.
        levels: how many.
    """

    def __init__(self, shape: Sequence[int], width: int = 64, levels: int = 3) -> None:
        super().__init__()
        made: list[nn.Module] = []
        if len(shape) == 3:
            inputs = shape[0]
            for k in range(levels):
                outputs = width * 2**k
                stride = 2 if min(shape[1:]) >= 2 ** (k + 2) else 1
                made.append(nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.LeakyReLU(0.2)))
                inputs = outputs
        else:
            inputs = math.prod(shape)
            for k in range(levels):
                first = [nn.Flatten()] if k == 0 else []
                made.append(nn.Sequential(*first, nn.Linear(inputs, width), nn.LeakyReLU(0.2)))
                inputs = width
        self.levels = nn.ModuleList(made)
        self.redraw()
        self.requires_grad_(False)

    @torch.no_grad()
    def redraw(self) -> None:
        """New weights, of variance 2 / fan-in; the perceptron's biases are standard normal, so that units differ."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.normal_(module.bias)

    def forward(self, x: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for level in self.levels:
            x = level(x)
            found.append(x)
        return found
