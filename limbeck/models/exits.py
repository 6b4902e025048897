"""Early exits: small networks that turn a stage of any kind into logits (Hao et al., 2023, OFA-KD).

https://arxiv.org/abs/2310.19444. They follow the released code; the layers for plain vectors are limbeck's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["TokenBranch", "branch", "map_branch"]

GRID = 7  # the code merges patches until about 7 x 7 are left


def separable(source: int, target: int, stride: int) -> nn.Sequential:
    """Two depthwise separable 3x3 convolutions, the first strided."""
    return nn.Sequential(
        nn.Conv2d(source, source, 3, stride, 1, groups=source, bias=False),
        nn.Conv2d(source, source, 1, bias=False),
        nn.BatchNorm2d(source),
        nn.ReLU(),
        nn.Conv2d(source, source, 3, 1, 1, groups=source, bias=False),
        nn.Conv2d(source, target, 1, bias=False),
        nn.BatchNorm2d(target),
        nn.ReLU(),
    )


def map_branch(shape: tuple[int, ...], width: int, later: int, K: int) -> nn.Sequential:
    """(B, C, H, W) to logits: one block for every ``later`` branch, doubling channels and halving the map."""
    channels, side = shape[0], min(shape[1:])
    blocks: list[nn.Module] = [] if later else [nn.Conv2d(channels, width, 1)]
    for k in range(later):
        stride = 2 if side > 2 else 1  # one pixel of one image has no batch statistics
        blocks.append(separable(channels, width if k == later - 1 else 2 * channels, stride))
        channels, side = 2 * channels, math.ceil(side / stride)
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, K))


class TokenBranch(nn.Module):
    """(B, T, D) to logits: patches merged to about 7 x 7, transformer blocks, the class token or else the mean."""

    def __init__(self, shape: tuple[int, ...], later: int, K: int) -> None:
        super().__init__()
        tokens, width = shape
        side = math.isqrt(tokens)
        self.first = int(side > 1 and tokens == side**2 + 1)  # a class token
        self.side = side
        square = tokens - self.first == side**2
        merges = max(int(math.log2(side / GRID)), 0) if square else 0
        self.merge = nn.Sequential(*[nn.Sequential(nn.Conv2d(width, width, 2, 2), nn.GELU()) for _ in range(merges)])
        block = (width, math.gcd(width, 4), 4 * width, 0.0, "gelu")
        self.blocks = nn.Sequential(
            *[nn.TransformerEncoderLayer(*block, batch_first=True, norm_first=True) for _ in range(max(later, 1))]
        )
        self.head = nn.Linear(width, K)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.merge):
            patches = self.merge(x[:, self.first :].mT.unflatten(2, (self.side, self.side)))
            x = torch.cat([x[:, : self.first], patches.flatten(2).mT], 1)
        x = self.blocks(x)
        return self.head(x[:, 0] if self.first else x.mean(1))


def branch(shape: tuple[int, ...], width: int, later: int, K: int) -> nn.Module:
    """An exit for a stage of that shape, without the batch axis; ``later`` branches follow it."""
    match len(shape):
        case 3:
            return map_branch(shape, width, later, K)
        case 2:
            return TokenBranch(shape, later, K)
        case _:
            return nn.Sequential(nn.Linear(shape[0], width), nn.ReLU(), nn.Linear(width, K))
