"""Policy gradients on words: advantages of a group of answers, the clipped likelihood ratio, a KL from samples."""

from __future__ import annotations

import torch
from torch import Tensor


def group_advantage(rewards: Tensor) -> Tensor:
    """``(R_i - mean R) / (std R + 1e-6)`` over the answers to one prompt (Shao et al., 2024, GRPO).

    https://arxiv.org/abs/2402.03300. The standard deviation divides by G, not by G - 1.

    Args:
        rewards: (..., G).

    Returns:
        (..., G); zero where all answers are as good.
    """
    return (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, correction=0, keepdim=True) + 1e-6)


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, eps: float) -> Tensor:
    """``- min(r A, clip(r, 1 - eps, 1 + eps) A)`` (Schulman et al., 2017, PPO), https://arxiv.org/abs/1707.06347.

    Args:
        log_ratio: (...) ``log r``.
        advantage: (...).
        eps: in (0, 1).
    """
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - eps, 1 + eps) * advantage)


def is_clipped(log_ratio: Tensor, advantage: Tensor, eps: float) -> Tensor:
    """(...) bool: where the surrogate has no gradient because the ratio has gone far enough."""
    ratio = log_ratio.exp()
    return ((advantage > 0) & (ratio > 1 + eps)) | ((advantage < 0) & (ratio < 1 - eps))


def sampled_kl(log_prob: Tensor, reference: Tensor) -> Tensor:
    """``r - 1 - log r`` with ``r = reference / probability``: at words drawn from the first, KL from the reference.

    Unbiased and never negative (Schulman, 2020, http://joschu.net/blog/kl-approx.html).

    Args:
        log_prob: (...) of the drawn words, whose policy drew them.
        reference: (...) of the same words.
    """
    log_ratio = reference - log_prob
    return log_ratio.exp() - 1 - log_ratio
