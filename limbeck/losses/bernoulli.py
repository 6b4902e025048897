"""Divergences of one outcome against all others, from its log-probability."""

from __future__ import annotations

from math import isinf, log

import torch
from torch import Tensor

__all__ = ["binary_kl", "log1mexp"]

EPSILON = 1e-6


def binary_kl(p: Tensor, q: Tensor, tau: float = 1.0) -> Tensor:
    """``tau KL(Bern(e^(p / tau)) || Bern(e^(q / tau)))``, in float64: close to certainty float32 has no digits left.

    The factor tau keeps the gradient from falling as 1 / tau; the limit is ``(p - q) + p (log -q - log -p)``.

    Args:
        p: (N,) log-probabilities, the teacher's.
        q: (N,) log-probabilities, the student's.
        tau: > 0, perhaps infinite.

    Returns:
        (N,) float64, finite: certainty is taken as ``-1e-6``.
    """
    p, q = p.double().clamp(max=-EPSILON), q.double().clamp(max=-EPSILON)
    if isinf(tau):
        return (p - q) + p * ((-q).log() - (-p).log())
    p, q = p / tau - EPSILON, q / tau - EPSILON
    return tau * (p.exp() * (p - q) - torch.expm1(p) * (log1mexp(p) - log1mexp(q)))


def log1mexp(x: Tensor) -> Tensor:
    """``log(1 - e^x)`` for x < 0, exact near 0 and far from it."""
    return torch.where(x > -log(2), (-torch.expm1(x)).log(), torch.log1p(-x.exp()))
