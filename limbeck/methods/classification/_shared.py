"""Small pieces of several methods: which layer to read, features of any kind as maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.method import Clock, Method
from limbeck.core.modules import Taps
from limbeck.data.batches import Batches, Images
from limbeck.errors import InputError, nearest
from limbeck.models.classifier import Classifier

__all__ = ["Labels", "as_map", "linear_probe", "middle", "tap"]


class Labels(Method):
    """Cross-entropy to the labels: the first stage of methods that go on from a trained student."""

    student: nn.Module

    def loss(self, batch: Images, clock: Clock) -> Tensor:
        return F.cross_entropy(self.student(batch.x), batch.y)


@torch.no_grad()
def linear_probe(student: Classifier, data: Batches, l2: float = 1e-4) -> None:
    """Fits the head by multinomial logistic regression on the frozen features of plain images; nothing else moves.

    L-BFGS from zero on standardised features, with ``l2 ||W||^2 / 2``: the same data give the same head. Images of
    unknown class are left out; where no class is known, the head stays as it was. Holds all features in memory.
    """
    head, taps = student.get_submodule(student.head), Taps(student.head + ":in")
    student.eval()
    known = [(b.x[b.y >= 0], b.y[b.y >= 0]) for b in data.plain() if (b.y >= 0).any()]
    if not known:
        return
    device = student.example.device
    h = torch.cat([taps(student, x.to(device))[1][0].float() for x, _ in known])
    y = torch.cat([y for _, y in known]).to(device)
    mean, std = h.mean(0) * (head.bias is not None), h.std(0, correction=0)
    std[std < 1e-6] = 1.0  # a feature that never moves says nothing
    z = (h - mean) / std
    W = torch.zeros(student.num_classes, h.shape[1], device=device, requires_grad=True)
    bias = torch.zeros(student.num_classes, device=device, requires_grad=True)
    optimizer = torch.optim.LBFGS([W] if head.bias is None else [W, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = F.cross_entropy(z @ W.T + bias, y) + l2 / 2 * W.square().sum()
            loss.backward()
        return loss

    optimizer.step(closure)
    head.weight.copy_(W / std)
    if head.bias is not None:
        head.bias.copy_(bias - (W / std) @ mean)


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
