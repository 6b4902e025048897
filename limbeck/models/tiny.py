"""Small networks to start from: names such as ``mlp-64x2``, ``cnn-8-16-32``, ``convnet-32x2``, ``vit-tiny``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.models.classifier import Classifier

__all__ = ["cnn", "convnet", "mixer", "mlp", "vit"]

Classes = int | Sequence[str]


def mlp(*widths: int, shape: Sequence[int], classes: Classes) -> Classifier:
    """Linear layers with ReLU between them, no normalisation: the stages are the hidden vectors after their ReLU."""
    sizes = [shape[0] * shape[1] * shape[2], *widths]
    hidden = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)]
    net = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], _count(classes)))
    stages = [f"net.{k + 1}" for k in range(len(hidden))]
    return _faced(net, shape, classes, stages)


def cnn(*widths: int, shape: Sequence[int], classes: Classes) -> Classifier:
    """A 3x3 convolution, batch norm and ReLU a stage, each but the last halving the image; then the mean and a head."""
    stages = [
        nn.Sequential(
            nn.Conv2d(a, b, 3, padding=1, bias=False),
            nn.BatchNorm2d(b),
            nn.ReLU(),
            nn.MaxPool2d(2) if k < len(widths) - 1 else nn.Identity(),
        )
        for k, (a, b) in enumerate(pairwise([shape[0], *widths]))
    ]
    net = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], _count(classes)))
    paths = [f"net.{k}" for k in range(len(stages))]
    return _faced(net, shape, classes, paths)


def convnet(width: int = 32, depth: int = 2, *, shape: Sequence[int], classes: Classes) -> Classifier:
    """A 3x3 convolution, instance norm, ReLU and 2x2 mean pooling a stage, then a head on all that is left: the network
    that data sets are distilled for (Gidaris and Komodakis 2018; Zhao et al. 2021, https://arxiv.org/abs/2006.05929).
    It has no statistics of batches, so that training it can be unrolled.

    Raises:
        InputError: for images that so many stages pool away.
    """
    if min(shape[1:]) < 2**depth:
        raise InputError("depth", depth, f"halves an image of {min(shape[1:])} pixels away; use fewer stages")
    stages = [
        nn.Sequential(nn.Conv2d(a, width, 3, padding=1), nn.GroupNorm(width, width), nn.ReLU(), nn.AvgPool2d(2))
        for a in [shape[0]] + [width] * (depth - 1)
    ]
    left = width * (shape[1] >> depth) * (shape[2] >> depth)
    net = nn.Sequential(*stages, nn.Flatten(), nn.Linear(left, _count(classes)))
    return _faced(net, shape, classes, [f"net.{k}" for k in range(depth)])


class _Attention(nn.Module):
    """A pre-norm transformer block (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class _Mixing(nn.Module):
    """A mixer block (Tolstikhin et al. 2021, https://arxiv.org/abs/2105.01601)."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class _Patches(nn.Module):
    """Patches, learned positions, blocks on tokens, the mean token, a head."""

    def __init__(self, shape: Sequence[int], patch: int, width: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(shape[0], width, patch, patch)
        self.tokens = (shape[1] // patch) * (shape[2] // patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, self.tokens, width))
        self.blocks = nn.Sequential()
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))


def vit(width: int = 64, depth: int = 4, *, shape: Sequence[int], classes: Classes) -> Classifier:
    """A vision transformer; a patch is an eighth of the image and at least 2x2, an attention head has 16 channels."""
    net = _Patches(shape, _patch(shape), width, _count(classes))
    net.blocks.extend(_Attention(width, width // 16) for _ in range(depth))
    return _faced(net, shape, classes, _blocks(depth))


def mixer(width: int = 64, depth: int = 4, *, shape: Sequence[int], classes: Classes) -> Classifier:
    """An MLP-mixer on such patches."""
    net = _Patches(shape, _patch(shape), width, _count(classes))
    net.blocks.extend(_Mixing(width, net.tokens) for _ in range(depth))
    return _faced(net, shape, classes, _blocks(depth))


def _patch(shape: Sequence[int]) -> int:
    return max(2, min(shape[1:]) // 8)


def _blocks(depth: int) -> list[str]:
    return [f"net.blocks.{k}" for k in range(depth)]


def _count(classes: Classes) -> int:
    return classes if isinstance(classes, int) else len(classes)


def _faced(net: nn.Module, shape: Sequence[int], classes: Classes, stages: list[str]) -> Classifier:
    """With pixels in [0, 1] brought to [-1, 1]."""
    half = [0.5] * shape[0]
    return Classifier(net, shape=shape, classes=classes, mean=half, std=half, stages=stages)
