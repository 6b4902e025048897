"""Statistics of features, as batch norm takes them, against those that it has kept."""

from __future__ import annotations

from torch import Tensor

__all__ = ["statistics_distance"]


def statistics_distance(feature: Tensor, mean: Tensor, var: Tensor, groups: int = 1) -> Tensor:
    """``||mu(f) - mean||_2 + ||sigma^2(f) - var||_2``, where mu and sigma^2 are over the images and places of a group.

    From Yin et al. (2020), https://arxiv.org/abs/1912.08795. The variance is the biased one, of which batch norm makes
    its output (what it *keeps* is the unbiased one, which differs by n / (n - 1)).

    Args:
        feature: (B, C, ...), the *input* of a batch norm.
        mean, var: (C,), its running statistics.
        groups: each B / groups consecutive images have statistics of their own.

    Returns:
        (groups,)
    """
    f = feature.unflatten(0, (groups, -1)).transpose(1, 2).flatten(2)
    off = (f.mean(2) - mean).norm(dim=1)
    return off + (f.var(2, unbiased=False) - var).norm(dim=1)
