"""Divergences between distributions given as log-probabilities.

``p`` and ``q`` are natural *log*-probabilities of shape (..., K); every function returns (...), nothing is averaged
and nothing is detached. Classes of probability zero are ``-inf``: they add nothing (``0 log 0 = 0``) and get no
gradient, so that masking a column with ``-inf`` logits equals dropping it. Half precision is computed in float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses._numeric import same_shape, trailing, wide


def soft_log(logits: Tensor, tau: float | Tensor = 1.0) -> Tensor:
    """``log softmax(logits / tau)`` over the last axis, in float32 at least.

    Args:
        logits: (..., K); ``-inf`` masks a class.
        tau: temperature > 0: a number, or a tensor of the leading shape (...), which may be learned.

    Raises:
        InputError: when a number ``tau`` is not positive.
    """
    logits = wide(logits)
    if isinstance(tau, Tensor):
        masked = logits == -math.inf  # -inf / tau has the value -inf but gives tau the gradient 0 * inf
        return (logits.masked_fill(masked, 0) / trailing(tau)).masked_fill(masked, -math.inf).log_softmax(-1)
    if not tau > 0:
        raise InputError("tau", tau, "must be positive")
    return (logits / tau).log_softmax(-1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """``KL(p || q) = sum_k exp(p_k) (p_k - q_k)``; infinite where q lacks a class that p has.

    The forward KL of distillation is ``kl(teacher, student)``, the reverse ``kl(student, teacher)``.
    """
    same_shape(p, q)
    p, q = wide(p), wide(q)
    mass = p.exp()
    return (mass * (p - q).masked_fill(mass == 0, 0)).sum(-1)


def jeffreys(p: Tensor, q: Tensor) -> Tensor:
    """``KL(p || q) + KL(q || p)`` (Jeffreys, 1946): the sum, not the half sum."""
    return kl(p, q) + kl(q, p)


def generalised_jsd(p: Tensor, q: Tensor, beta: float | Tensor) -> Tensor:
    """``beta KL(p || m) + (1 - beta) KL(q || m)`` with ``m = beta p + (1 - beta) q`` in probabilities.

    Agarwal et al. (2024), https://arxiv.org/abs/2306.13649, with p the teacher. The value is zero at ``beta`` 0 and 1,
    so neither end trains anything: the limits are ``JSD_beta / beta -> KL(p || q)`` as beta -> 0 and
    ``JSD_beta / (1 - beta) -> KL(q || p)`` as beta -> 1. Use ``kl`` there.

    Args:
        p: (..., K) log-probabilities.
        q: (..., K) log-probabilities.
        beta: in [0, 1]: a number, or a tensor of the leading shape (...).

    Raises:
        InputError: when a number ``beta`` is outside [0, 1].
    """
    m = _mixture(p, q, beta, "beta")
    return _times(beta, kl(p, m)) + _times(1 - beta, kl(q, m))


def js(p: Tensor, q: Tensor) -> Tensor:
    """``KL(p || m) / 2 + KL(q || m) / 2``, ``m = (p + q) / 2`` (Lin, 1991): symmetric, at most log 2."""
    return generalised_jsd(p, q, 0.5)


def skewed_kl(p: Tensor, q: Tensor, alpha: float | Tensor) -> Tensor:
    """``KL(p || alpha p + (1 - alpha) q)`` (DistiLLM: Ko et al., 2024), https://arxiv.org/abs/2402.03898.

    Args:
        p: (..., K) log-probabilities, the teacher's.
        q: (..., K) log-probabilities, the student's.
        alpha: share of p in the mixture, in [0, 1]; 0 is ``kl(p, q)``. A number, or a tensor of shape (...).

    Raises:
        InputError: when a number ``alpha`` is outside [0, 1].
    """
    return kl(p, _mixture(p, q, alpha, "alpha"))


def skewed_reverse_kl(p: Tensor, q: Tensor, alpha: float | Tensor) -> Tensor:
    """``KL(q || (1 - alpha) p + alpha q)`` (DistiLLM: Ko et al., 2024): alpha weights the *student* q here.

    Args:
        p: (..., K) log-probabilities, the teacher's.
        q: (..., K) log-probabilities, the student's.
        alpha: share of q in the mixture, in [0, 1]; 0 is ``kl(q, p)``. A number, or a tensor of shape (...).

    Raises:
        InputError: when a number ``alpha`` is outside [0, 1].
    """
    return kl(q, _mixture(q, p, alpha, "alpha"))


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """``1/2 sum_k |exp(p_k) - exp(q_k)|``, in [0, 1]."""
    same_shape(p, q)
    return (wide(p).exp() - wide(q).exp()).abs().sum(-1) / 2


def cross_entropy(p: Tensor, q: Tensor) -> Tensor:
    """``- sum_k exp(p_k) q_k = KL(p || q) + H(p)``, p the target."""
    return soft_cross_entropy(wide(p).exp(), q)


def soft_cross_entropy(target_probabilities: Tensor, q: Tensor) -> Tensor:
    """``- sum_k t_k q_k`` for any weights t: entries may be negative and need not sum to one.

    Args:
        target_probabilities: (..., K) weights, *not* logarithms; zero on masked classes.
        q: (..., K) log-probabilities.
    """
    same_shape(target_probabilities, q)
    target, q = wide(target_probabilities), wide(q)
    return -(target * q.masked_fill((target == 0) & (q == -math.inf), 0)).sum(-1)


def entropy(p: Tensor) -> Tensor:
    """``H(p) = - sum_k exp(p_k) p_k`` in nats, in [0, log K]."""
    return cross_entropy(p, p)


def distil_kl(student_logits: Tensor, teacher_logits: Tensor, tau: float) -> Tensor:
    """``tau^2 KL(softmax(teacher / tau) || softmax(student / tau))`` (Hinton et al., 2015), per sample.

    https://arxiv.org/abs/1503.02531. The factor tau^2 keeps the gradient's scale as tau grows.
    """
    return tau**2 * kl(soft_log(teacher_logits, tau), soft_log(student_logits, tau))


def _mixture(p: Tensor, q: Tensor, share: float | Tensor, name: str) -> Tensor:
    """``log(share exp(p) + (1 - share) exp(q))``, with finite gradients where p, q or both are -inf."""
    if not isinstance(share, Tensor) and not 0 <= share <= 1:
        raise InputError(name, share, "must be in [0, 1]")
    same_shape(p, q)
    a, b = wide(p) + _log(share), wide(q) + _log(1 - share)
    empty = (a == -math.inf) & (b == -math.inf)
    return a.masked_fill(empty, 0).logaddexp(b.masked_fill(empty, 0)).masked_fill(empty, -math.inf)


def _log(share: float | Tensor) -> float | Tensor:
    if isinstance(share, Tensor):
        return trailing(wide(share).log())
    return math.log(share) if share else -math.inf


def _times(weight: float | Tensor, value: Tensor) -> Tensor:
    """``weight * value`` with ``0 * inf = 0``."""
    if isinstance(weight, Tensor):
        return weight * value.masked_fill(weight == 0, 0)
    return weight * value if weight else torch.zeros_like(value)
