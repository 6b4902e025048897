"""Does a classifier know how sure to be? Functions of log-probabilities (N, K) and labels (N,) in 0..K-1.

On calibration of modern neural networks (Guo, Pleiss, Sun & Weinberger, 2017). https://arxiv.org/abs/1706.04599
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import InputError
from limbeck.losses.divergence import entropy

__all__ = ["binned", "ece", "entropy_gap", "fit_temperature", "reliability"]

BOUND = math.log(100.0)  # of log tau: a classifier that is right (or wrong) everywhere has no best temperature


def reliability(log_probabilities: Tensor, labels: Tensor, bins: int = 15) -> list[tuple[float, float, int]]:
    """The reliability diagram over equal-width bins ``(i / bins, (i + 1) / bins]`` of the top probability.

    Returns:
        Mean confidence, accuracy and count of every bin that is not empty, from unsure to sure.
    """
    _check(log_probabilities, labels, bins)
    confidence, predicted = log_probabilities.double().exp().max(1)
    return binned(confidence, predicted == labels, bins)


def binned(confidence: Tensor, right: Tensor, bins: int = 15) -> list[tuple[float, float, int]]:
    """:func:`reliability` of top probabilities (N,) and whether each was right (N,), where all logits are too many."""
    confidence, right = confidence.double(), right.double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=confidence.device)
    place = torch.bucketize(confidence, edges[1:-1])  # right edges belong to their bin
    found: list[tuple[float, float, int]] = []
    for i in range(bins):
        inside = place == i
        if inside.any():
            found.append((float(confidence[inside].mean()), float(right[inside].mean()), int(inside.sum())))
    return found


def ece(log_probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error, in [0, 1]: the mean gap of accuracy and confidence over bins, weighted by count
    (Naeini, Cooper & Hauskrecht, 2015; equation 3 of Guo et al.)."""
    gaps = ((abs(right - sure), count) for sure, right, count in reliability(log_probabilities, labels, bins))
    return sum(gap * count for gap, count in gaps) / len(labels)


def entropy_gap(student: Tensor, teacher: Tensor) -> float:
    """Mean entropy of the student's predictions minus the teacher's, in nats: negative when the student is surer."""
    return float((entropy(student.double()) - entropy(teacher.double())).mean())


def fit_temperature(log_probabilities: Tensor, labels: Tensor) -> float:
    """The temperature that minimises the cross-entropy of ``softmax(z / tau)`` on held-out predictions (section 4.2).

    Logarithms of probabilities serve as logits: they differ from them by a constant per sample. Above 1 the classifier
    was too sure. The answer lies in [0.01, 100].
    """
    _check(log_probabilities, labels, 1)
    z = log_probabilities.detach().double()
    log_tau = torch.zeros((), dtype=torch.float64, device=z.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_tau], max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        nll = F.cross_entropy(z / log_tau.clamp(-BOUND, BOUND).exp(), labels)
        nll.backward()
        return nll

    with torch.enable_grad():
        optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    return float(log_tau.detach().clamp(-BOUND, BOUND).exp())


def _check(log_probabilities: Tensor, labels: Tensor, bins: int) -> None:
    if not len(labels) or log_probabilities.ndim != 2 or labels.shape != log_probabilities.shape[:1]:
        said = f"{list(log_probabilities.shape)} and {list(labels.shape)}"
        raise InputError("predictions", said, "are the shapes; they must be (N, K) and (N,) with N at least 1")
    if bins < 1:
        raise InputError("bins", bins, "must be at least 1")
    if int(labels.min()) < 0 or int(labels.max()) >= log_probabilities.shape[1]:
        raise InputError("labels", [int(labels.min()), int(labels.max())], "are their range; leave unknown ones out")
