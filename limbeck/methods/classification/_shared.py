"""Small pieces of several methods: which layer to read, features of any kind as maps."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.method import Clock, Method
from limbeck.core.modules import Taps
from limbeck.data.batches import Images
from limbeck.errors import InputError, nearest
from limbeck.models.classifier import Classifier

__all__ = ["Labels", "Probe", "as_map", "middle", "tap"]


class Labels(Method):
    """Cross-entropy to the labels: the first stage of methods that go on from a trained student."""

    student: nn.Module

    def loss(self, batch: Images, clock: Clock) -> Tensor:
        return F.cross_entropy(self.student(batch.x), batch.y)


class Probe(Method):
    """The linear probe: cross-entropy of known labels moves the head alone, on features that stay what they are."""

    student: nn.Module

    def __post_init__(self) -> None:
        self.student.requires_grad_(False).get_submodule(self.student.head).requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        """Like ``nn.Module.train``, but the student stays in eval mode, and its batch norms as they are."""
        super().train(mode)
        self.student.eval()
        return self

    def loss(self, batch: Images, clock: Clock) -> Tensor:
        total = F.cross_entropy(self.student(batch.x), batch.y, ignore_index=-1, reduction="sum")
        return total / (batch.y >= 0).sum().clamp_min(1)


def tap(model: Classifier, path: str, field: str) -> Taps:
    """Reads the layer that a hyper-parameter names; a final ``:in`` reads the layer's input.

    Raises:
        InputError: when the model has no such layer.
    """
    known = [name for name, _ in model.named_modules() if name]
    if path.removesuffix(":in") not in known:
        raise InputError(field, path, "is no layer of the model" + nearest(path, known))
    return Taps(path)


def middle(model: Classifier) -> str:
    """Path of the middle stage, the shallower of the two where their number is even."""
    return model.stages[(len(model.stages) - 1) // 2]


def as_map(feature: Tensor) -> Tensor:
    """Any feature as a map: (B, C) -> (B, C, 1, 1), tokens (B, T, C) -> (B, C, H, W) on their square grid.

    Maps stay what they are. One token more than a square is a class token, which comes first and is left out; tokens
    that fill no square become one column, (B, C, T, 1).
    """
    if feature.ndim == 2:
        return feature[..., None, None]
    if feature.ndim == 4:
        return feature
    tokens = feature.shape[1]
    side = int(tokens**0.5)
    if tokens == side**2 + 1 and side > 1:
        feature, tokens = feature[:, 1:], tokens - 1
    grid = (side, side) if tokens == side**2 else (tokens, 1)
    return feature.mT.unflatten(2, grid)
