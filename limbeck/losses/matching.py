"""Distances between what a network makes of real and of synthetic samples: class means of features, attention maps,
gradients. They are what distilled data sets are made by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import InputError

__all__ = ["class_means", "gradient_distance", "mean_distance"]


def class_means(features: Tensor, y: Tensor, classes: int) -> Tensor:
    """The mean of every class's rows: (B, ...), (B,) int64 in [0, K) -> (K, ...); zeros for a class without rows."""
    flat = features.flatten(1).float()
    sums = torch.zeros(classes, flat.shape[1], device=flat.device, dtype=flat.dtype).index_add(0, y, flat)
    counts = torch.bincount(y, minlength=classes).clamp(min=1)
    return (sums / counts[:, None]).unflatten(1, features.shape[1:])


def mean_distance(real: Tensor, real_y: Tensor, made: Tensor, made_y: Tensor, classes: int) -> Tensor:
    """``|| mean_{x in T_k} f(x) - mean_{s in S_k} f(s) ||^2``, (B, ...), (B,), (S, ...), (S,) -> (K,).

    The distribution matching of Zhao and Bilen (2021), https://arxiv.org/abs/2110.04181, equation 4, a class at a time.
    A class that only one of the two has counts as 0.
    """
    both = torch.bincount(real_y, minlength=classes).bool() & torch.bincount(made_y, minlength=classes).bool()
    gap = class_means(real, real_y, classes) - class_means(made, made_y, classes)
    return gap.flatten(1).square().sum(1) * both


def gradient_distance(
    real: Sequence[Tensor], made: Sequence[Tensor], kind: Literal["cosine", "mse"] = "cosine"
) -> Tensor:
    """How far two gradients are apart, a tensor of the network at a time, as a scalar.

    ``cosine``: the sum over output channels (rows) of ``1 - cos`` of Zhao et al. (2021),
    https://arxiv.org/abs/2006.05929, equation 9; vectors (biases) are left out, as in the authors' code. ``mse``: the
    sum of squared differences, as in IDC (Kim et al. 2022), https://arxiv.org/abs/2205.14959.

    Args:
        real: gradients, constant.
        made: gradients of the same shapes, a function of the synthetic samples.

    Raises:
        InputError: for another kind.
    """
    pairs = list(zip(real, made, strict=True))
    if kind == "mse":
        return torch.stack([(r.detach() - m).square().sum() for r, m in pairs]).sum()
    if kind != "cosine":
        raise InputError("kind", kind, "is not one of 'cosine', 'mse'")
    rows = [(r.detach().flatten(1), m.flatten(1)) for r, m in pairs if r.ndim > 1]
    return torch.stack([(1 - F.cosine_similarity(r, m, dim=1, eps=1e-6)).sum() for r, m in rows]).sum()
