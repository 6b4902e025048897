"""Target builders: teacher outputs and labels in, a distribution to imitate out.

They are kept apart from the losses: build the target first, then ``soft_cross_entropy(target, student)``. Everything
works over the last axis, K classes, and returns *probabilities*; nothing is detached.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses._numeric import same_shape, trailing, wide
from limbeck.losses.divergence import soft_log


def one_hot(labels: Tensor, K: int) -> Tensor:
    """Labels (...) in [0, K) to float32 rows (..., K).

    Raises:
        InputError: when a label is outside [0, K); -1 means "unknown" and must be left out before.
    """
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= K):
        span = f"{int(labels.min())} to {int(labels.max())}"
        raise InputError("labels", span, f"must lie in 0 to {K - 1}; leave unlabelled samples out")
    return F.one_hot(labels.long(), K).float()


def smooth(labels: Tensor, K: int, epsilon: float) -> Tensor:
    """``(1 - epsilon) onehot + epsilon / K``: (...) -> (..., K).

    Label smoothing (Szegedy et al., 2016), https://arxiv.org/abs/1512.00567.
    """
    return (1 - epsilon) * one_hot(labels, K) + epsilon / K


def blend(labels_onehot: Tensor, probs: Tensor, w: float | Tensor) -> Tensor:
    """``(1 - w) onehot + w probs``: w is the weight of the *teacher* everywhere in limbeck.

    Args:
        labels_onehot: (..., K).
        probs: (..., K), the teacher's.
        w: a number, or a tensor of the leading shape (...); may be outside [0, 1], entries are then negative.
    """
    same_shape(probs, labels_onehot)
    w = trailing(w)
    return (1 - w) * wide(labels_onehot) + w * wide(probs)


def mean_probabilities(
    logits: Sequence[Tensor], weights: Sequence[float] | Tensor | None = None, tau: float = 1.0
) -> Tensor:
    """``sum_m w_m softmax(z_m / tau) / sum_m w_m``: the mean of the *probabilities* of M teachers, not of their logits.

    Args:
        logits: M tensors (..., K).
        weights: M numbers, or a tensor (M,) or (M, ...) with one weight a sample; uniform when None.
        tau: temperature > 0.

    Raises:
        InputError: when there is no teacher, or not one weight for each.
    """
    if not logits:
        raise InputError("logits", [], "needs at least one teacher")
    probs = torch.stack([soft_log(z, tau).exp() for z in logits])
    w = torch.ones(len(logits)) if weights is None else torch.as_tensor(weights)
    if len(w) != len(logits):
        raise InputError("weights", len(w), f"must be one for each of the {len(logits)} teachers")
    w = w.to(probs)
    w = (w / w.sum(0)).reshape(w.shape + (1,) * (probs.ndim - w.ndim))
    return (w * probs).sum(0)


def zipf_by_rank(scores: Tensor, labels: Tensor) -> Tensor:
    """``t_i = (1 / rank_i) / sum_{j != label} 1 / rank_j`` for i != label, and 0 at the label.

    USKD (Yang et al., 2023), https://arxiv.org/abs/2303.13005. The highest score among the
    non-target classes has rank 1; ties go to the lower class. No gradient reaches the scores.

    Args:
        scores: (..., K).
        labels: (...) int64.
    """
    rest = _others(labels, scores.shape[-1])
    target = torch.zeros_like(wide(scores))
    order = scores.gather(-1, rest).argsort(stable=True, dim=-1, descending=True)
    rank = order.argsort(-1) + 1  # the position of each class in the order, not the class at each position
    weights = rank.to(target.dtype).reciprocal()
    return target.scatter(-1, rest, weights / weights.sum(-1, keepdim=True))


def enhanced(probs: Tensor, labels: Tensor, gamma: float, variant: Literal["paper", "code"]) -> Tensor:
    """Weights t of ``- t log p``, the label's above the teacher's: (..., K), (...) -> (..., K); they do not sum to one.

    OFA-KD (Hao et al., 2023), https://arxiv.org/abs/2310.19444.

    Args:
        probs: (..., K), the teacher's.
        labels: (...) int64.
        gamma: exponent > 0.
        variant: ``"paper"`` has ``(1 + p_y)^gamma`` at the label and ``p_c`` elsewhere; ``"code"`` has
            ``(p_c + [c = y])^gamma - [c = y]`` everywhere.
    """
    y = one_hot(labels, probs.shape[-1])
    if variant == "code":
        return (probs + y) ** gamma - y
    return torch.where(y.bool(), (1 + probs) ** gamma, probs)


def permute_rest(probs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Keep each row's largest entry in its place and shuffle the others among themselves.

    DKPP (Furlanello et al., 2018), https://arxiv.org/abs/1805.04770. What is left of the teacher is its
    confidence profile.

    Args:
        probs: (..., K).
        generator: source of the permutations, one a row.
    """
    probs = wide(probs)
    rest = _others(probs.argmax(-1), probs.shape[-1])
    device = probs.device if generator is None else generator.device
    shuffled = torch.rand(rest.shape, generator=generator, device=device).argsort(-1).to(probs.device)
    return probs.scatter(-1, rest, probs.gather(-1, rest.gather(-1, shuffled)))


def standardise(logits: Tensor, dim: int, eps: float = 1e-5) -> Tensor:
    """``(z - mean) / sqrt(var + eps)`` over ``dim``, with the biased variance; ``-inf`` entries stay and do not count.

    ``dim=0`` standardises each class over the batch (LumiNet: Hossain et al., 2023, https://arxiv.org/abs/2310.03669),
    ``dim=-1`` each sample over its classes (logit standardisation). Gradients flow through mean and variance.
    """
    logits = wide(logits)
    masked = logits == -math.inf
    count = (~masked).sum(dim, keepdim=True).clamp_min(1)
    centred = logits.masked_fill(masked, 0)
    centred = (centred - centred.sum(dim, keepdim=True) / count).masked_fill(masked, 0)
    variance = centred.square().sum(dim, keepdim=True) / count
    return (centred * (variance + eps).rsqrt()).masked_fill(masked, -math.inf)


def drop_label(logits: Tensor, labels: Tensor) -> Tensor:
    """(..., K) and (...) -> (..., K - 1): the columns in their order, without the label's."""
    return logits.gather(-1, _others(labels, logits.shape[-1]))


def top_k(probs: Tensor, k: int, *, tail: Literal["renormalise", "uniform"]) -> Tensor:
    """Keep the k largest entries of each row, (..., K) -> (..., K).

    Args:
        probs: (..., K), rows sum to one.
        k: in [1, K].
        tail: ``"renormalise"`` puts the rest to zero and scales the kept entries to sum one; ``"uniform"`` leaves
            the kept entries as they are and spreads the remaining mass evenly over the K - k others.

    Raises:
        InputError: when ``k`` is outside [1, K].
    """
    probs, K = wide(probs), probs.shape[-1]
    if not 1 <= k <= K:
        raise InputError("k", k, f"must be in 1 to {K}")
    kept, at = probs.topk(k, -1)
    total = kept.sum(-1, keepdim=True)
    if tail == "renormalise":
        return torch.zeros_like(probs).scatter(-1, at, kept / total)
    return ((1 - total) / max(K - k, 1)).expand_as(probs).scatter(-1, at, kept)


def _others(labels: Tensor, K: int) -> Tensor:
    """(...) -> (..., K - 1): the indices of the other classes, ascending."""
    column = torch.arange(K - 1, device=labels.device)
    return column + (column >= labels.unsqueeze(-1))
