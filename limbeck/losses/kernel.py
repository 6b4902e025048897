"""Distances between two sets of samples that kernels give: maximum mean discrepancy and the energy distance."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cubic", "energy_distance", "gaussian", "linear", "mmd2"]


def linear(a: Tensor, b: Tensor) -> Tensor:
    """``<a, b> / d``: (N, D), (M, D) -> (N, M)."""
    return a @ b.T / a.shape[1]


def cubic(a: Tensor, b: Tensor) -> Tensor:
    """``(<a, b> / d + 1)^3``, the kernel of KID (Binkowski et al., 2018, https://arxiv.org/abs/1801.01401)."""
    return (linear(a, b) + 1) ** 3


def gaussian(a: Tensor, b: Tensor, widths: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)) -> Tensor:
    """The mean of ``exp(-||a - b||^2 / 2 w^2)`` over the widths."""
    apart = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
    return torch.stack([torch.exp(-apart / (2 * w * w)) for w in widths]).mean(0)


def mmd2(within_a: Tensor, within_b: Tensor, between: Tensor, *, unbiased: bool = True) -> Tensor:
    """``MMD^2`` from kernel matrices (N, N), (M, M) and (N, M), a scalar (Gretton et al., 2012).

    The unbiased estimate leaves the diagonals out and may be negative; the biased one does not and is not.
    """
    n, m = between.shape
    if unbiased:
        a = (within_a.sum() - within_a.diagonal().sum()) / (n * (n - 1))
        b = (within_b.sum() - within_b.diagonal().sum()) / (m * (m - 1))
    else:
        a, b = within_a.mean(), within_b.mean()
    return a + b - 2 * between.mean()


def energy_distance(a: Tensor, b: Tensor) -> Tensor:
    """``2 E|a - b| - E|a - a'| - E|b - b'|`` of (N, D) and (M, D), unbiased, a scalar (Szekely & Rizzo, 2013)."""
    near = (torch.cdist(p, q) for p, q in ((a, a), (b, b), (a, b)))
    return mmd2(*(-d for d in near))
