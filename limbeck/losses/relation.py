"""Relations among the samples of a batch: student and teacher may have different widths."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.losses._numeric import product, same_batch, unit, wide


def pairwise_distances(x: Tensor) -> Tensor:
    """``d_ij = ||x_i - x_j||_2``: (B, D) -> (B, B), with gradient zero where the distance is zero.

    Differentiable once.
    """
    x = wide(x)
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_j l(d^S_ij / mu_S, d^T_ij / mu_T)`` for each anchor i: (B, D_S), (B, D_T) -> (B,).

    RKD-D (Park et al., 2019), https://arxiv.org/abs/1904.05068. l is the Huber loss with delta 1, mu the mean of the
    model's own positive distances, the student's with gradient. The mean over anchors is the paper's loss (over all B^2
    pairs, the diagonal included, as in the authors' code).
    """
    same_batch(student, teacher)
    return _huber(_relative(student), _relative(teacher)).mean(-1)


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_jk l(<e^S_ij, e^S_ik>, <e^T_ij, e^T_ik>)`` for each anchor i: (B, D_S), (B, D_T) -> (B,).

    RKD-A (Park et al., 2019), https://arxiv.org/abs/1904.05068. ``e_ij = (x_j - x_i) / ||x_j - x_i||``, so the product
    is the cosine of the angle at i, l the Huber loss with delta 1. The mean over anchors is the paper's loss (over all
    B^3 triplets, as in the authors' code). Memory grows with B^2 (B + D).
    """
    same_batch(student, teacher)
    return _huber(_cosines(student), _cosines(teacher)).mean((-1, -2))


def gram(x: Tensor) -> Tensor:
    """``G = X X^T`` with each row divided by its L2 norm, X flattened: (B, ...) -> (B, B).

    Tung & Mori (2019), https://arxiv.org/abs/1907.09682.
    """
    x = wide(x).flatten(1)
    return unit(product(x, x.T))


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """``1/B sum_j (G^S_ij - G^T_ij)^2`` for each row i: (B, ...), (B, ...) -> (B,).

    Tung & Mori (2019): the mean over rows is the paper's ``||G^S - G^T||_F^2 / B^2``.
    """
    same_batch(student, teacher)
    return (gram(student) - gram(teacher)).square().mean(-1)


def cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment: (B, ...), (B, ...) -> scalar in [0, 1] up to rounding.

    ``||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)`` with centred columns (Kornblith et al., 2019),
    https://arxiv.org/abs/1905.00414, the biased estimate; 0 where the
    centred features vanish.
    """
    same_batch(x, y)
    x, y = _centred(x), _centred(y)
    scale = _alignment(x, x) * _alignment(y, y)
    return _alignment(x, y) * scale.masked_fill(scale == 0, 1).rsqrt()


def _centred(x: Tensor) -> Tensor:
    """Centred columns and, lest fourth powers overflow, Frobenius norm one."""
    x = wide(x).flatten(1)
    x = x - x.mean(0)
    return unit(x.flatten()).view_as(x)


def _alignment(x: Tensor, y: Tensor) -> Tensor:
    """``||Y^T X||_F^2 = <X X^T, Y Y^T>``, by the smaller of the two ways."""
    if len(x) ** 2 <= x.shape[1] * y.shape[1]:
        return (product(x, x.T) * product(y, y.T)).sum()
    return product(y.T, x).square().sum()


def _relative(x: Tensor) -> Tensor:
    distances = pairwise_distances(x)
    mean = distances.sum() / (distances > 0).sum().clamp_min(1)
    return distances / mean.clamp_min(torch.finfo(mean.dtype).tiny)  # a collapsed batch stays at zero


def _cosines(x: Tensor) -> Tensor:
    x = wide(x)
    e = unit(x.unsqueeze(0) - x.unsqueeze(1))  # e[i, j] points from the anchor i to j
    return product(e, e.mT)


def _huber(a: Tensor, b: Tensor) -> Tensor:
    return F.smooth_l1_loss(a, b, reduction="none", beta=1.0)
