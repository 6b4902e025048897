"""Contrast of matching pairs with all others."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses._numeric import product, wide


def info_nce(u: Tensor, v: Tensor, temperature: float | Tensor, mask: Tensor | None = None) -> Tensor:
    """``- log exp(u_i . v_i / t) / sum_j exp(u_i . v_j / t)`` for each row i: (B, D), (N, D) -> (B,).

    Oord et al. (2018), https://arxiv.org/abs/1807.03748. Nothing is normalised here: pass unit vectors for cosines.

    Args:
        u: (B, D) queries.
        v: (N, D) keys, N >= B; the positive of query i is key i, further keys are negatives of every query.
        temperature: t > 0, a number or a scalar tensor, which may be learned.
        mask: (B, N) bool, True where key j may be a negative of query i; the positive always counts. All when None.

    Raises:
        InputError: when there are fewer keys than queries, or a number ``temperature`` is not positive.
    """
    if len(v) < len(u):
        raise InputError("v", tuple(v.shape), f"needs a key for each of the {len(u)} queries")
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise InputError("temperature", temperature, "must be positive")
    scores = product(wide(u), wide(v).T) / temperature
    if mask is not None:
        positive = torch.eye(len(u), len(v), dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(~(mask | positive), -math.inf)
    return -scores.log_softmax(-1).diagonal()


def sample_contrast(u: Tensor, v: Tensor, image: Tensor, agrees: Tensor, t: float) -> Tensor:
    """InfoNCE of windows, negatives being windows of other images in the same category: (N, D), (N, D) -> (N,).

    MSDCRD (Wang et al., 2025), https://arxiv.org/abs/2502.05835.

    Args:
        u, v: (N, D) windows of student and teacher, made unit vectors here.
        image: (N,) the image that a window belongs to.
        agrees: (N,) bool, its category: whether the teacher says the same of the window as of the whole image.
        t: temperature > 0.
    """
    mask = (image[:, None] != image) & (agrees[:, None] == agrees)
    return info_nce(F.normalize(u, dim=1), F.normalize(v, dim=1), t, mask)


def channel_contrast(u: Tensor, v: Tensor, t: float) -> Tensor:
    """InfoNCE of the channels of windows, over all windows as unit vectors: (N, D), (N, D) -> (D,)."""
    return info_nce(F.normalize(u.T, dim=1), F.normalize(v.T, dim=1), t)


def nce_bank(critic_positive: Tensor, critic_negatives: Tensor, noise_ratio: float) -> Tensor:
    """``- log h(s^+) - sum_m log(1 - h(s_m))``, ``h(s) = e^s / (e^s + M / N)``: (B,), (B, M) -> (B,).

    CRD (Tian et al., 2020), https://arxiv.org/abs/1910.10699.

    Args:
        critic_positive: (B,) *log* critics of the pair of the same sample, u . v / tau (less log Z when normalised).
        critic_negatives: (B, M) log critics of M pairs drawn from the memory bank.
        noise_ratio: M / N, negatives drawn over samples in the bank; > 0.

    Raises:
        InputError: when ``noise_ratio`` is not positive.
    """
    if not noise_ratio > 0:
        raise InputError("noise_ratio", noise_ratio, "must be positive")
    shift = math.log(noise_ratio)
    return F.softplus(shift - wide(critic_positive)) + F.softplus(wide(critic_negatives) - shift).sum(-1)
