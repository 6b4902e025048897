"""Rows that stand for a whole class: the ones nearest to the centres of k-means."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["representatives"]


def representatives(features: Tensor, count: int, seed: int = 0) -> Tensor:
    """``{ argmin_{x in cluster k} ||phi(x) - mu_k|| : k = 1 ... count }``, all different.

    Args:
        features: (N, D).
        count: clusters; all N rows when there are no more than that.
        seed: of the first centres.

    Returns:
        (min(count, N),) int64, ascending.
    """
    if len(features) <= count:
        return torch.arange(len(features))
    from sklearn.cluster import KMeans

    points = features.detach().float().cpu()
    found = KMeans(count, n_init=1, random_state=seed).fit(points.numpy())
    cluster = torch.from_numpy(found.labels_).long()
    away = (points - torch.from_numpy(found.cluster_centers_)[cluster]).square().sum(1)
    order = torch.argsort(away, stable=True)
    order = order[torch.argsort(cluster[order], stable=True)]  # by cluster, the nearest first
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = cluster[order][1:] != cluster[order][:-1]
    chosen = order[first]
    if len(chosen) < count:  # fewer different points than clusters: k-means leaves some empty
        rest = torch.ones(len(features), dtype=torch.bool)
        rest[chosen] = False
        chosen = torch.cat([chosen, rest.nonzero().squeeze(1)[: count - len(chosen)]])
    return chosen.sort().values
