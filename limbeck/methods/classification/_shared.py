"""Small pieces of several methods: passes over the data, which layer to read, features of any kind as maps."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.method import Clock, Method, Setting
from limbeck.core.modules import Taps
from limbeck.data.batches import Batches, Images
from limbeck.errors import InputError, nearest
from limbeck.models.classifier import Classifier

__all__ = ["as_map", "class_means", "linear_probe", "map_shapes", "middle", "tap", "warm_start"]


class Labels(Method):
    """Cross-entropy to the labels: the first stage of methods that go on from a trained student."""

    student: nn.Module

    def loss(self, batch: Images, clock: Clock) -> Tensor:
        return F.cross_entropy(self.student(batch.x), batch.y)


def warm_start(setting: Setting, student: nn.Module, share: float) -> int:
    """Trains the student on labels for that share of the run's steps; how many steps are left."""
    first = round(share * setting.steps)
    if first:
        setting.fit(Labels(student), name="warm-start", steps=first)
    return setting.steps - first


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


@torch.no_grad()
def class_means(teacher: Classifier, batches: Iterable[Images]) -> Tensor:
    """The teacher's mean penultimate feature of every class in eval mode, (K, D); zeros where there are no samples."""
    taps, training = Taps(teacher.head + ":in"), teacher.training
    [(width,)] = taps.shapes(teacher, teacher.example)
    sums = torch.zeros(teacher.num_classes, width, device=teacher.example.device)
    counts = torch.zeros_like(sums[:, :1])
    teacher.eval()
    for batch in batches:
        batch = batch.to(sums.device)
        known = batch.y >= 0
        _, [feature] = taps(teacher, batch.x)
        sums.index_add_(0, batch.y[known], feature[known].to(sums.dtype))
        counts += F.one_hot(batch.y[known], len(sums)).sum(0)[:, None]
    teacher.train(training)
    return sums / counts.clamp_min(1)


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


def map_shapes(taps: Taps, model: Classifier) -> list[tuple[int, int, int]]:
    """The shapes (C, H, W) of the tapped features as maps."""
    return [tuple(as_map(torch.empty(1, *shape)).shape[1:]) for shape in taps.shapes(model, model.example)]
