"""How networks are trained on a synthetic set. A set carries its use, so that it is used as it was distilled for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.data.augment import augmentation
from limbeck.models.unroll import StepData, start, step

if TYPE_CHECKING:
    from limbeck.models.synthetic import SyntheticSet

__all__ = ["Descent", "InOrder", "Use", "descend"]


class Use(Protocol):
    """Trains a network on a set, in place, under torch's global generator."""

    def __call__(self, net: nn.Module, made: SyntheticSet) -> None: ...


@dataclass(frozen=True)
class Descent:
    """Ordinary training: SGD with momentum 0.9 and a cosine, on mini-batches of augmented images.

    Args:
        steps: optimiser steps.
        rate: the step size at the start; the set's own mean rate where it has learnt some and ``own_rate`` is set.
        batch: images a step, all of them when there are fewer.
        augment: see :func:`limbeck.data.augment.augmentation`.
        own_rate: use the step size that the set has learnt.
        weight_decay: L2 on all parameters.
    """

    steps: int = 300
    rate: float = 0.05
    batch: int = 256
    augment: str = "none"
    own_rate: bool = False
    weight_decay: float = 5e-4

    def __call__(self, net: nn.Module, made: SyntheticSet) -> None:
        rate = float(made.rates.mean()) if self.own_rate and made.rates is not None else self.rate
        y = made.y if made.targets is None else made.targets.detach().softmax(1)
        descend(net, made().detach().clamp(0, 1), y, steps=self.steps, rate=rate, batch=self.batch,
                augment=self.augment, weight_decay=self.weight_decay)  # fmt: skip


def descend(
    net: nn.Module, x: Tensor, y: Tensor, *, steps: int, rate: float, batch: int, augment: str = "none",
    weight_decay: float = 5e-4,
) -> None:  # fmt: skip
    """Train on (N, C, H, W) images and their classes (N,) or probabilities (N, K)."""
    change = augmentation(augment, (x.shape[1], x.shape[2], x.shape[3])) or (lambda images: images)
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9, weight_decay=weight_decay)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    net.train()
    left = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if not len(left):
            left = torch.randperm(len(x))
        rows, left = left[:batch], left[batch:]
        F.cross_entropy(net(change(x[rows])), y[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
        plan.step()
    net.eval()


class InOrder(nn.Module):
    """The set's steps in their order, each with its own images and its own step size, ``epochs`` times over (Wang et
    al. 2018): image s of every class belongs to step s.

    Args:
        epochs: times that all steps are taken; the rates are of every step of every epoch.
        begin: the network whose weights the set was distilled for; training begins with them. None for any.
    """

    def __init__(self, epochs: int, begin: nn.Module | None = None) -> None:
        super().__init__()
        self.epochs, self.begin = epochs, begin

    def steps(self, made: SyntheticSet) -> list[StepData]:
        """The data of every step, as a function of the set."""
        assert made.rates is not None
        x, y = made(), made.y
        each = len(made.rates) // self.epochs
        order = torch.arange(len(x)).reshape(len(made.classes), each).T
        return [StepData(x[order[k % each]], y[order[k % each]], rate) for k, rate in enumerate(made.rates)]

    def __call__(self, net: nn.Module, made: SyntheticSet) -> None:
        if self.begin is not None:
            net.load_state_dict(self.begin.state_dict())
        state = start({name: p.detach().clone() for name, p in net.named_parameters()})
        for data in self.steps(made):
            now = {n: p.detach().requires_grad_() for n, p in state.theta.items()}
            x, y, rate = (part.detach() for part in data)
            state = step(net, state._replace(theta=now), StepData(x, y, rate), graph=False)
        with torch.no_grad():
            for name, p in net.named_parameters():
                p.copy_(state.theta[name])
        net.eval()
