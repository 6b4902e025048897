"""A network that is trained beside a synthetic set, a step at a time: methods look through networks of several ages."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from limbeck.models.renew import renew

__all__ = ["Aged"]


class Aged(nn.Module):
    """A network with its age and its own SGD with momentum; no player of a method moves it, and a checkpoint keeps it.

        v <- mu v + grad + lambda theta,        theta <- theta - rate v

    Args:
        net: is taken over; its parameters get no gradient from elsewhere.
        rate: the step size.
        momentum: mu.
        weight_decay: lambda.
    """

    age: Tensor
    v: Tensor

    def __init__(self, net: nn.Module, rate: float, momentum: float = 0.9, weight_decay: float = 5e-4) -> None:
        super().__init__()
        self.net = net.requires_grad_(False)
        self.rate, self.momentum, self.weight_decay = rate, momentum, weight_decay
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))
        self.register_buffer("v", torch.cat([torch.zeros_like(p).flatten() for p in net.parameters()]))

    def renew(self) -> None:
        """Another network, of age 0."""
        renew(self.net)
        self.age.zero_()
        self.v.zero_()

    def step(self, loss: Callable[[nn.Module], Tensor]) -> None:
        """One step down a scalar loss of the network, in the mode it is in."""
        parameters = list(self.net.parameters())
        with torch.enable_grad():
            for p in parameters:
                p.requires_grad_(True)
            slopes = torch.autograd.grad(loss(self.net), parameters, allow_unused=True, materialize_grads=True)
            for p in parameters:
                p.requires_grad_(False)
        with torch.no_grad():
            theta = torch.cat([p.flatten() for p in parameters])
            slope = torch.cat([g.flatten() for g in slopes])
            self.v.mul_(self.momentum).add_(slope + self.weight_decay * theta)
            for p, v in zip(parameters, self.v.split([p.numel() for p in parameters]), strict=True):
                p.sub_(self.rate * v.view_as(p))
        self.age += 1
