"""Derivatives along a direction: how a network's answer changes as its state and its time move together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["Derivative", "derivative"]

Derivative = Literal["jvp", "fd"]


@torch.no_grad()
def derivative(
    f: Callable[..., Tensor], at: Sequence[Tensor], along: Sequence[Tensor], how: Derivative = "jvp",
    step: float = 5e-3,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """``f(at)`` and ``sum_i (df / d at_i) along_i``, both without graph.

    Args:
        f: of as many tensors as there are in ``at``.
        at, along: the point and the direction, of the same shapes; a zero direction holds an input fixed.
        how: ``jvp``: exact, in forward mode, at the cost of about two calls. Fused attention has none, so torch's is
            taken apart here; a network with a kernel of its own needs ``fd``.
            ``fd``: the central difference ``(f(at + h along) - f(at - h along)) / 2h``, three calls of any network.
        step: h of ``fd``; the error is of order h^2, and of rounding over h. Inputs leave their range by as much.
    """
    at, along = tuple(at), tuple(along)
    if how == "jvp":
        with sdpa_kernel(SDPBackend.MATH):
            value, slope = torch.func.jvp(f, at, along)
        return value.detach(), slope.detach()
    ahead, behind = (f(*(p + h * d for p, d in zip(at, along, strict=True))) for h in (step, -step))
    return f(*at), (ahead - behind) / (2 * step)
