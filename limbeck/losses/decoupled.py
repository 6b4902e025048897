"""Losses that treat the label's part of a prediction apart from the other classes' part; both come unweighted."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.losses.divergence import soft_cross_entropy, soft_log
from limbeck.losses.targets import drop_label, zipf_by_rank


def nkd(student: Tensor, teacher: Tensor, labels: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """NKD's two parts, unweighted: logits (B, K), labels (B,) -> target (B,), others (B,)."""
    at = labels[:, None]
    trust = teacher.softmax(1).gather(1, at)[:, 0]
    target = -trust * soft_log(student).gather(1, at)[:, 0]
    s, t = (soft_log(drop_label(z, labels), tau) for z in (student, teacher))
    return target, tau**2 * soft_cross_entropy(t.exp(), s)


def uskd(student: Tensor, weak: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """USKD's two parts with the student's own targets, unweighted: logits (B, K), labels (B,) -> (B,), (B,)."""
    at, log_s = labels[:, None], soft_log(student)
    with torch.no_grad():
        s, w = log_s.exp(), weak.softmax(1)
        s_t, w_t = s.gather(1, at), w.gather(1, at)
        p_t = (1 + s_t.square() - s_t.square().mean())[:, 0]
        # Every row is ranked by itself; the floor keeps a row finite whose label has all of the probability.
        ranked = w / (1 - w_t).clamp_min(1e-6) + s / (1 - s_t).clamp_min(1e-6)
        p = drop_label(zipf_by_rank(ranked, labels), labels)
    return -p_t * log_s.gather(1, at)[:, 0], soft_cross_entropy(p, soft_log(drop_label(student, labels)))
