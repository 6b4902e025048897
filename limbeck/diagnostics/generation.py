"""How near two sets of samples are: sliced Wasserstein, modes covered, Frechet distance, precision and recall,
diversity."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["diversity", "frechet", "modes", "precision_recall", "sliced_wasserstein"]


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = 128, seed: int = 0) -> float:
    """The 2-Wasserstein distance of two sets (N, D), (M, D), averaged over random lines: ``sqrt(E W2^2)``.

    Bonneel et al. (2015). Sets of different sizes are compared by quantiles.
    """
    lines = torch.randn(a.shape[1], directions, generator=torch.Generator().manual_seed(seed))
    lines = (lines / lines.norm(dim=0)).to(a)
    p, q = (a @ lines).sort(0).values, (b @ lines).sort(0).values
    if len(p) != len(q):
        at = (torch.arange(min(len(p), len(q))) + 0.5) / min(len(p), len(q))
        p, q = (torch.quantile(s, at.to(s), dim=0) for s in (p, q))
    return float((p - q).square().mean().sqrt())


def modes(x: Tensor, means: Tensor, std: float, share: float = 0.1) -> tuple[int, float]:
    """How many modes (K, D) are covered by samples (N, D), and the share of samples that are near any.

    Near is within four standard deviations; a mode is covered when it has at least ``share`` of an equal part.
    """
    apart, nearest = torch.cdist(x, means).min(1)
    near = apart < 4 * std
    counts = torch.bincount(nearest[near], minlength=len(means))
    return int((counts >= share * len(x) / len(means)).sum()), float(near.float().mean())


def frechet(a: Tensor, b: Tensor) -> float:
    """The Frechet distance of two sets of features (N, D), (M, D), as of Gaussians: ``|m - n|^2 + tr(A + B - 2
    (AB)^1/2)``.

    Heusel et al. (2017), https://arxiv.org/abs/1706.08500. It depends on the features: state them with the number.
    """
    a, b = a.double(), b.double()
    apart = (a.mean(0) - b.mean(0)).square().sum()
    p, q = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(p)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ q @ root).clamp(min=0).sqrt().sum()  # tr (AB)^1/2 = tr (A^1/2 B A^1/2)^1/2
    return max(float(apart + p.trace() + q.trace() - 2 * cross), 0.0)


def precision_recall(made: Tensor, real: Tensor, k: int = 3) -> tuple[float, float]:
    """The share of made samples inside the real ones' k-nearest-neighbour balls, and the other way round.

    Kynkaanniemi et al. (2019), https://arxiv.org/abs/1904.06991, on features (N, D), (M, D).
    """

    def inside(points: Tensor, support: Tensor) -> float:
        radius = torch.cdist(support, support).kthvalue(min(k + 1, len(support)), 1).values
        return float((torch.cdist(points, support) <= radius).any(1).float().mean())

    return inside(made, real), inside(real, made)


def diversity(x: Tensor, y: Tensor) -> float:
    """The mean distance of two samples (N, D) of the same label (N,): what is left when all look alike is 0."""
    total, count = 0.0, 0
    for label in y.unique():
        own = x[y == label]
        if len(own) > 1:
            total += float(torch.cdist(own, own).sum()) / (len(own) * (len(own) - 1))
            count += 1
    return total / count if count else math.nan
