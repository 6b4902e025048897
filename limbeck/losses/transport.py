"""Entropic optimal transport between two sets of equal weight."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses._numeric import wide


def sinkhorn(cost: Tensor, epsilon: float, iterations: int) -> Tensor:
    """``argmin_P <P, C> - epsilon H(P)`` with rows summing to 1/n and columns to 1/m: (..., n, m) -> (..., n, m).

    Sinkhorn iterations (Cuturi, 2013), https://arxiv.org/abs/1306.0895, in the log domain, so that a small epsilon does
    not underflow. The last half step fixes the rows exactly; the columns converge. Gradients flow through the
    iterations: pass ``cost.detach()`` for a constant plan.

    Args:
        cost: (..., n, m), finite.
        epsilon: weight of the entropy, > 0, in the cost's unit.
        iterations: column and row updates, >= 1.

    Raises:
        InputError: when ``epsilon`` is not positive or ``iterations`` below 1.
    """
    if not epsilon > 0:
        raise InputError("epsilon", epsilon, "must be positive")
    if iterations < 1:
        raise InputError("iterations", iterations, "must be at least 1")
    kernel = -wide(cost) / epsilon
    n, m = kernel.shape[-2:]
    row = torch.zeros_like(kernel[..., :1])
    column = torch.zeros_like(kernel[..., :1, :])
    for _ in range(iterations):
        column = -math.log(m) - (kernel + row).logsumexp(-2, keepdim=True)
        row = -math.log(n) - (kernel + column).logsumexp(-1, keepdim=True)
    return (kernel + row + column).exp()


def transport_cost(cost: Tensor, plan: Tensor) -> Tensor:
    """``<P, C> = sum_ij P_ij C_ij``: (..., n, m) -> (...)."""
    return (wide(plan) * wide(cost)).sum((-1, -2))


def matching_cost(student: Tensor, teacher: Tensor, epsilon: float, iterations: int) -> Tensor:
    """``<P, C>`` of unit vectors, ``C_ij = 1 - t_i . s_j``, P the entropic plan as a constant: (B, D), (B, D) -> ().

    The local contrast of WCoRD (Chen et al., 2021), https://arxiv.org/abs/2012.08674: the two batches as sets.
    """
    cost = 1 - teacher @ student.T
    return transport_cost(cost, sinkhorn(cost.detach(), epsilon, iterations))
