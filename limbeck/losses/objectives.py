"""Objectives over the vocabulary: what two word distributions are compared by.

Each is called with log-probabilities (n, V) of teacher and student and gives (n,): that is its definition, a function
of ``losses/divergence.py``. Those with an ``in_place`` form also know the gradient at the student's logits, which is
faster and which tests hold against the definition. Any other function of log-probabilities is an objective too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses import divergence as dv

__all__ = [
    "JSD", "CrossEntropy", "Decoupled", "ForwardKL", "InPlace", "Objective", "ReverseKL", "SkewKL", "SkewReverseKL",
    "TotalVariation", "decoupled",
]  # fmt: skip

Objective = Callable[..., Tensor]


class InPlace:
    """An objective whose gradient at the student's logits is known: ``__call__`` is its definition."""

    linear: ClassVar[bool] = False
    """Whether the gradient is linear in the teacher's probabilities, so that drawn words will do."""

    @property
    def gain(self) -> float:
        """What the gradient that ``in_place`` leaves is still to be multiplied by."""
        return 1.0

    def __call__(self, p: Tensor, q: Tensor) -> Tensor:
        """Log-probabilities of teacher and student, (n, V) and (n, V) -> (n,)."""
        raise NotImplementedError

    def in_place(self, p: Tensor, q: Tensor, p_mass: Tensor, q_mass: Tensor, room: Tensor) -> Tensor:
        """The values (n,); ``q`` becomes their gradient at the logits of the student, but for ``gain``.

        Args:
            p: (n, V) log-probabilities of the teacher, with the lowest finite number for ``-inf``. May be overwritten.
            q: (n, V) those of the student, alike.
            p_mass: (n, V) ``exp(p)``. May be overwritten.
            q_mass: (n, V) ``exp(q)``. May be overwritten.
            room: (n, V) to work in.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class ForwardKL(InPlace):
    """``KL(p || q)``. With drawn words the value is the cross-entropy: its gradient is the same."""

    linear: ClassVar[bool] = True

    def __call__(self, p: Tensor, q: Tensor) -> Tensor:
        """(n, V), (n, V) -> (n,)."""
        return dv.kl(p, q)

    def in_place(self, p: Tensor, q: Tensor, p_mass: Tensor, q_mass: Tensor, room: Tensor) -> Tensor:
        """``q - p``."""
        value = torch.linalg.vecdot(p_mass, p.sub_(q))
        torch.sub(q_mass, p_mass, out=q)
        return value


@dataclass(frozen=True)
class CrossEntropy(InPlace):
    """``- sum_k p_k log q_k = KL(p || q) + H(p)``."""

    linear: ClassVar[bool] = True

    def __call__(self, p: Tensor, q: Tensor) -> Tensor:
        """(n, V), (n, V) -> (n,)."""
        return dv.cross_entropy(p, q)

    def in_place(self, p: Tensor, q: Tensor, p_mass: Tensor, q_mass: Tensor, room: Tensor) -> Tensor:
        """``q - p``."""
        value = -torch.linalg.vecdot(p_mass, q)
        torch.sub(q_mass, p_mass, out=q)
        return value


@dataclass(frozen=True)
class ReverseKL(InPlace):
    """``KL(q || p)``."""

    def __call__(self, p: Tensor, q: Tensor) -> Tensor:
        """(n, V), (n, V) -> (n,)."""
        return dv.kl(q, p)

    def in_place(self, p: Tensor, q: Tensor, p_mass: Tensor, q_mass: Tensor, room: Tensor) -> Tensor:
        """``q (log(q / p) - value)``."""
        return _centre(q.sub_(p), q_mass)


@dataclass(frozen=True)
class JSD(InPlace):
    """``beta KL(p || m) + (1 - beta) KL(q || m)``, ``m = beta p + (1 - beta) q``: GKD's, beta in (0, 1).

    It vanishes at both ends, where ``ForwardKL`` (0) and ``ReverseKL`` (1) are its limits.
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        _inside("beta", self.beta, "the ends are ForwardKL() at 0 and ReverseKL() at 1")

    @property
    def gain(self) -> float:
        """``1 - beta``."""
        return 1 - self.beta

    def __call__(self, p: Tensor, q: Tensor) -> Tensor:
        """(n, V), (n, V) -> (n,)."""
        return dv.generalised_jsd(p, q, self.beta)

    def in_place(self, p: Tensor, q: Tensor, p_mass: Tensor, q_mass: Tensor, room: Tensor) -> Tensor:
        """``q (log(q / m) - KL(q || m))``, times ``1 - beta``."""
        _log(torch.lerp(q_mass, p_mass, self.beta, out=room))
        value = self.beta * torch.linalg.vecdot(p_mass, p.sub_(room))
        return value + self.gain * _centre(q.sub_(room), q_mass)


@dataclass(frozen=True)
class SkewKL(InPlace):
    """``KL(p || alpha p + (1 - alpha) q)``: DistiLLM's, alpha in (0, 1) weighs the teacher; ``ForwardKL`` at 0."""

    alpha: float = 0.1

    def __post_init__(self) -> None:
        _inside("alpha", self.alpha, "at 0 it is ForwardKL(), at 1 nothing")

    @property
    def gain(self) -> float:
        """``alpha - 1``."""
        return self.alpha - 1

    def __call__(self, p: Tensor, q: Tensor) -> Tensor:
        """(n, V), (n, V) -> (n,)."""
        return dv.skewed_kl(p, q, self.alpha)

    def in_place(self, p: Tensor, q: Tensor, p_mass: Tensor, q_mass: Tensor, room: Tensor) -> Tensor:
        """``q (p / m - sum_k q p / m)``, times ``alpha - 1``."""
        torch.lerp(q_mass, p_mass, self.alpha, out=room).clamp_(min=torch.finfo(room.dtype).tiny)
        torch.div(p_mass, room, out=q)
        value = torch.linalg.vecdot(p_mass, p.sub_(room.log_()))
        _centre(q, q_mass)
        return value


@dataclass(frozen=True)
class SkewReverseKL(InPlace):
    """``KL(q || (1 - alpha) p + alpha q)``: DistiLLM's, alpha in (0, 1) weighs the student; ``ReverseKL`` at 0."""

    alpha: float = 0.1

    def __post_init__(self) -> None:
        _inside("alpha", self.alpha, "at 0 it is ReverseKL(), at 1 nothing")

    def __call__(self, p: Tensor, q: Tensor) -> Tensor:
        """(n, V), (n, V) -> (n,)."""
        return dv.skewed_reverse_kl(p, q, self.alpha)

    def in_place(self, p: Tensor, q: Tensor, p_mass: Tensor, q_mass: Tensor, room: Tensor) -> Tensor:
        """``q (g - sum_k q g)`` with ``g = log(q / m) - alpha q / m``."""
        torch.lerp(p_mass, q_mass, self.alpha, out=room).clamp_(min=torch.finfo(room.dtype).tiny)
        torch.div(q_mass, room, out=p)
        q.sub_(room.log_())
        value = torch.linalg.vecdot(q_mass, q)
        _centre(q.sub_(p, alpha=self.alpha), q_mass)
        return value


@dataclass(frozen=True)
class TotalVariation(InPlace):
    """``1/2 sum_k |p_k - q_k|``."""

    def __call__(self, p: Tensor, q: Tensor) -> Tensor:
        """(n, V), (n, V) -> (n,)."""
        return dv.total_variation(p, q)

    def in_place(self, p: Tensor, q: Tensor, p_mass: Tensor, q_mass: Tensor, room: Tensor) -> Tensor:
        """``q (s - sum_k q s)`` with ``s = sign(q - p) / 2``."""
        value = torch.sub(q_mass, p_mass, out=p).abs().sum(-1) / 2
        _centre(torch.sign(p, out=q).div_(2), q_mass)
        return value


def decoupled(p: Tensor, q: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """``KL(p || q) = TCKD + (1 - p_y) NCKD`` (DKD: Zhao et al., 2022), https://arxiv.org/abs/2203.08679.

    TCKD compares the label's mass with the rest's, NCKD the distributions over the other words, each renormalised.

    Args:
        p: (..., V) log-probabilities, the teacher's.
        q: (..., V) log-probabilities, the student's.
        labels: (...) int64; where negative, both parts are 0.

    Returns:
        TCKD and NCKD, (...) each.
    """
    at = labels.clamp_min(0).unsqueeze(-1)

    def split(x: Tensor) -> tuple[Tensor, Tensor]:
        rest = x.scatter(-1, at, -torch.inf)
        mass = rest.logsumexp(-1, keepdim=True)
        return torch.cat([x.gather(-1, at), mass], -1), rest - mass

    (p_two, p_rest), (q_two, q_rest) = split(p), split(q)
    blank = labels < 0
    return dv.kl(p_two, q_two).masked_fill(blank, 0), dv.kl(p_rest, q_rest).masked_fill(blank, 0)


class Decoupled:
    """``a TCKD + b NCKD`` a token: its extra tensors are the labels, a and b, each of the tokens' shape."""

    def __call__(self, p: Tensor, q: Tensor, labels: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """(n, V), (n, V), (n,), (n,), (n,) -> (n,)."""
        target, rest = decoupled(p, q, labels)
        return a * target + b * rest


def _centre(g: Tensor, mass: Tensor) -> Tensor:
    """``g`` becomes ``q (g - sum_k q g)``, a gradient at probabilities taken to logits; returns the sum."""
    mean = torch.linalg.vecdot(mass, g)
    g.sub_(mean[:, None]).mul_(mass)
    return mean


def _log(mass: Tensor) -> Tensor:
    """In place; of a mass that underflowed, the logarithm of the smallest number: it is multiplied by 0 later."""
    return mass.clamp_(min=torch.finfo(mass.dtype).tiny).log_()


def _inside(name: str, value: float, fix: str) -> None:
    if not 0 < value < 1:
        raise InputError(name, value, f"must be between 0 and 1; {fix}")
