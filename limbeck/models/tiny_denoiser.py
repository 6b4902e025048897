"""A small diffusion model of any shape: for tests, points in the plane, and images of a few pixels."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck.models.denoiser import Denoiser
from limbeck.models.path import Flow, Path, Prediction

__all__ = ["Mlp", "mlp"]

WAVES = 6


class Mlp(nn.Module):
    """A residual perceptron of flattened samples, told the time, the label and further numbers.

    Times are given as themselves and as sines and cosines of ``pi 2^k t``, k < 6, so that -t differs from t. Further
    numbers come in through a layer that begins at zero: a network that is told more begins as the one that was not.

    Args:
        width, depth: of the residual blocks.
        shape: of one sample.
        classes: how many; 0 for none. There is one embedding more, the null label's.
        extras: how many further numbers.
    """

    def __init__(self, width: int, depth: int, shape: Sequence[int], classes: int = 0, extras: int = 0) -> None:
        super().__init__()
        self.extras, self.shape, size = extras, tuple(shape), math.prod(shape)
        self.middle = f"blocks.{(depth - 1) // 2}"
        self.enter = nn.Linear(size, width)
        self.time = nn.Sequential(nn.Linear(1 + 2 * WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.more = _more(extras, width) if extras else None
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.leave = nn.Linear(width, size)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        told = self.time(waves(t[:, None]))
        if self.label is not None:
            assert y is not None
            told = told + self.label(y)
        if extra is not None and self.more is not None:
            told = told + self.more(waves(extra))
        told, h = nn.functional.silu(told), self.enter(x.flatten(1))
        for block in self.blocks:
            h = block(h, told)
        return self.leave(nn.functional.silu(h)).unflatten(1, self.shape)

    def told(self, extras: int) -> Mlp:
        """A copy that is told so many further numbers, beginning without effect."""
        made = copy.deepcopy(self)
        made.extras, made.more = extras, _more(extras, self.enter.out_features)
        return made


def _more(extras: int, width: int) -> nn.Sequential:
    last = nn.Linear(width, width)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(extras * (1 + 2 * WAVES), width), nn.SiLU(), last)


class Block(nn.Module):
    """``h + W2 silu(W1 silu(h) + Wc c)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.told = nn.Linear(width, width)

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        inner = self.first(nn.functional.silu(h)) + self.told(told)
        return h + self.second(nn.functional.silu(inner))


def waves(numbers: Tensor) -> Tensor:
    """(B, E) -> (B, E (1 + 2 * 6)): the numbers, their sines and their cosines."""
    angles = numbers[..., None] * (math.pi * 2.0 ** torch.arange(WAVES, device=numbers.device, dtype=numbers.dtype))
    return torch.cat([numbers[..., None], angles.sin(), angles.cos()], -1).flatten(1)


def mlp(
    width: int = 64, depth: int = 3, *, shape: Sequence[int] = (2,), classes: int | Sequence[str] = 0,
    path: Path | None = None, prediction: Prediction = "velocity", extras: int = 0,
) -> Denoiser:  # fmt: skip
    """A fresh model of samples of this shape; on the flow path, predicting velocities, by default."""
    count = classes if isinstance(classes, int) else len(classes)
    net = Mlp(width, depth, shape, count, extras)
    return Denoiser(net, shape=shape, path=path or Flow(), prediction=prediction, classes=classes)
