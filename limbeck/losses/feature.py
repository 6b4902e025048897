"""Distances between a student's feature and a teacher's, one value per sample.

Shapes must agree exactly: nothing is projected, pooled, broadcast or detached here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses._numeric import same_shape, unit, wide


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_d (s_d - t_d)^2`` over all dimensions but the first: (B, ...) -> (B,)."""
    return _difference(student, teacher).square().mean(-1)


def half_squared(student: Tensor, teacher: Tensor) -> Tensor:
    """``1/2 ||s - t||^2``, *summed* over all dimensions but the first: (B, ...) -> (B,).

    FitNets (Romero et al., 2015), https://arxiv.org/abs/1412.6550.
    """
    return _difference(student, teacher).square().sum(-1) / 2


def smooth_l1(student: Tensor, teacher: Tensor, beta: float = 1.0) -> Tensor:
    """``mean_d h(s_d - t_d)``, ``h(x) = x^2 / (2 beta)`` if ``|x| < beta`` else ``|x| - beta / 2``: (B, ...) -> (B,).

    Args:
        student: (B, ...).
        teacher: (B, ...).
        beta: where the quadratic becomes linear, >= 0; 0 is the L1 distance.
    """
    difference = _difference(student, teacher)
    return F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none", beta=beta).mean(-1)


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """``1 - s . t / (||s|| ||t||)`` over the last axis: (..., D) -> (...), in [0, 2].

    A zero vector has cosine 0 with everything and gets no gradient.
    """
    same_shape(student, teacher)
    return 1 - (unit(wide(student)) * unit(wide(teacher))).sum(-1)


def attention_map(features: Tensor, p: float = 2.0) -> Tensor:
    """``Q / ||Q||_2`` with ``Q = vec(sum_c |F_c|^p)``: (B, C, H, W) -> (B, H * W).

    Zagoruyko & Komodakis (2017), https://arxiv.org/abs/1612.03928.

    Args:
        features: (B, C, ...) activations, channels second.
        p: power >= 1.

    Raises:
        InputError: when ``p`` is below 1, where the gradient at zero is infinite.
    """
    if p < 1:
        raise InputError("p", p, "must be at least 1")
    return unit(wide(features).abs().pow(p).sum(1).flatten(1))


def attention_transfer(student: Tensor, teacher: Tensor, p: float = 2.0) -> Tensor:
    """``|| Q_S / ||Q_S|| - Q_T / ||Q_T|| ||_2``: (B, C_S, H, W), (B, C_T, H, W) -> (B,).

    Zagoruyko & Komodakis (2017), without their factor beta / 2. The authors' code takes the mean of squares instead:
    ``mse(attention_map(student), attention_map(teacher))``.
    """
    student, teacher = attention_map(student, p), attention_map(teacher, p)
    same_shape(student, teacher)
    return torch.linalg.vector_norm(student - teacher, dim=-1)


def norm_direction(student: Tensor, teacher: Tensor, class_mean: Tensor) -> Tensor:
    """``1 - s . e / max(||s||, ||t||)``, e the unit vector along the class mean: (B, D) -> (B,).

    ND loss (Wang et al., 2023), https://arxiv.org/abs/2305.17007. While the student's norm is below the teacher's the
    denominator is constant and the loss lengthens s along e; above it is plain cosine, as ||s|| carries gradient.

    Args:
        student: (B, D) embeddings.
        teacher: (B, D) embeddings.
        class_mean: (B, D), the teacher's mean embedding of each sample's class, of any length.
    """
    same_shape(student, teacher)
    same_shape(student, class_mean)
    student, teacher = wide(student), wide(teacher)
    length = torch.linalg.vector_norm(student, dim=-1).maximum(torch.linalg.vector_norm(teacher, dim=-1))
    projection = (student * unit(wide(class_mean))).sum(-1)
    return 1 - projection / length.clamp_min(torch.finfo(length.dtype).tiny)


def _difference(student: Tensor, teacher: Tensor) -> Tensor:
    """``student - teacher``, (B, D)."""
    same_shape(student, teacher)
    return (wide(student) - wide(teacher)).flatten(1)
