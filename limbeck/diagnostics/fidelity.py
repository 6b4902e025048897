"""Does a student predict what its teacher predicts? Functions of log-probabilities (N, K) on the same samples.

Does knowledge distillation really work? (Stanton, Izmailov, Kirichenko, Alemi & Wilson, 2021).
https://arxiv.org/abs/2106.05945. A student may gain accuracy and still disagree with its teacher often.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.divergence import kl

__all__ = ["agreement", "per_class_agreement", "predictive_kl"]


def agreement(student: Tensor, teacher: Tensor) -> float:
    """Average top-1 agreement, in [0, 1] (equation 2): the share of samples on which both choose the same class."""
    return float(_agrees(student, teacher).double().mean())


def predictive_kl(teacher: Tensor, student: Tensor) -> float:
    """Average predictive KL(teacher || student) in nats (equation 3), at temperature 1."""
    _check(student, teacher)
    return float(kl(teacher.double(), student.double()).mean())


def per_class_agreement(student: Tensor, teacher: Tensor, labels: Tensor) -> list[float]:
    """Top-1 agreement on the samples of every true class, for classes 0..K-1; 0 where a class has none.

    Args:
        student: (N, K) log-probabilities.
        teacher: (N, K) log-probabilities.
        labels: (N,) int64; samples of unknown class, -1, are left out.
    """
    agrees, classes = _agrees(student, teacher).double(), student.shape[1]
    known = labels >= 0
    hits = torch.bincount(labels[known], weights=agrees[known], minlength=classes)
    counts = torch.bincount(labels[known], minlength=classes)
    return (hits / counts.clamp(min=1)).tolist()


def _agrees(student: Tensor, teacher: Tensor) -> Tensor:
    _check(student, teacher)
    return student.argmax(1) == teacher.argmax(1)


def _check(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape or student.ndim != 2 or not len(student):
        said = f"{list(student.shape)} and {list(teacher.shape)}"
        raise InputError("predictions", said, "are the shapes of student and teacher; they must be the same (N, K)")
