"""Pre-training distillation for large language models: a design space exploration (Peng et al., 2024).
https://arxiv.org/abs/2410.16215

    L = (1 - alpha) L_lm + alpha L_kd,    L_lm = -1/N sum_t log q(x_t | x_<t),    L_kd = 1/N sum_t D(P_t, q_t)
    P = softmax(z / tau) over the likeliest words that together hold p of the mass, and at most k of those
    alpha rises from 0, stays, and falls to 0 with a learning rate that does the same (WSD)

Truncation first, at temperature 1, as the stored logits are; then the temperature. The student's softmax is over all
words. D is the cross-entropy (``nll``), whose gradient is the KL's, or a squared error of logits, the arm that fails.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, Positive
from limbeck.core.modules import freeze
from limbeck.data.tokens import Tokens
from limbeck.losses.divergence import cross_entropy, kl
from limbeck.losses.vocabulary import token_loss

CARD = Card(
    key="pretraining_distillation",
    title="Pre-training Distillation for Large Language Models: A Design Space Exploration",
    authors="Hao Peng, Xin Lv, Yushi Bai, Zijun Yao, Jiajie Zhang, Lei Hou, Juanzi Li",
    year=2024,
    url="https://arxiv.org/abs/2410.16215",
    family="language",
    summary="A small model is pre-trained on text and on the few words that a large model holds likely at each place.",
    modality="text",
    teacher="frozen",
    signal="logits",
    needs=("topk",),
    fidelity="reconstruction",
    notes="Paper's best: alpha and learning rate both WSD; the rate is the run's setting. Assumed: straight rises and "
    "falls, their lengths, alpha 0 at both ends; logits of the squared error up to the constant that softmax ignores. "
    "Renormalising what is kept makes the teacher surer than it is. No factor tau^2.",
)


def truncated(p: Tensor, top_p: float, top_k: int) -> Tensor:
    """Which words are kept: the fewest likeliest that hold ``top_p`` together, and of those at most ``top_k``.

    Args:
        p: (n, V) log-probabilities.
        top_p: mass, 0 to 1; the word that reaches it is kept.
        top_k: words, at least 1.

    Returns:
        (n, V) bool, at least one a row.
    """
    best = p.topk(min(top_k, p.shape[-1]), -1)
    mass = best.values.exp()
    kept = mass.cumsum(-1) - mass < top_p  # what comes before a word does not hold enough yet
    kept[..., 0] = True
    return torch.zeros_like(p, dtype=torch.bool).scatter(-1, best.indices, kept)


def trapezium(clock: Clock, rise: float, fall: float) -> float:
    """Warm-up, stable, decay: from 0 up to 1 over a share ``rise`` of the steps, down to 0 over a share ``fall``."""
    at = (clock.step + 0.5) / clock.steps
    return min(1.0, at / rise if rise else 1.0, (1 - at) / fall if fall else 1.0)


class PretrainingDistillation(Method):
    """Labels and the truncated words of a teacher, live or stored."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    alpha: Fraction = 0.9
    """Share of the distillation at its highest. Paper: about 0.9 is better than 1."""
    schedule: Literal["wsd", "constant"] = "wsd"
    """Whether alpha rises and falls."""
    rise: Fraction = 0.1
    """Share of the steps in which it rises."""
    fall: Fraction = 0.1
    """Share of the steps in which it falls."""
    top_p: Fraction = 0.95
    """Mass that the teacher's likeliest words are kept for, first."""
    top_k: Count = 100
    """Words kept at most, then."""
    tau: Positive = 1.0
    """Temperature of both. Paper: below 2 it hardly matters."""
    divergence: Literal["nll", "kl", "mse"] = "nll"
    """D: cross-entropy, KL(P || q), or the squared error of the logits kept."""

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def between(self, p: Tensor, q: Tensor) -> Tensor:
        """D, of log-probabilities at ``tau`` (n, V), (n, V) -> (n,)."""
        kept = truncated((self.tau * p).log_softmax(-1), self.top_p, self.top_k)
        if self.divergence == "mse":
            apart = self.tau * (p - q)
            mean = apart.where(kept, 0).sum(-1, keepdim=True) / kept.sum(-1, keepdim=True)
            return (apart - mean).where(kept, 0).square().sum(-1) / kept.sum(-1)
        target = p.masked_fill(~kept, -torch.inf).log_softmax(-1)
        return kl(target, q) if self.divergence == "kl" else cross_entropy(target, q)

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        alpha = self.alpha * (1.0 if self.schedule == "constant" else trapezium(clock, self.rise, self.fall))
        with torch.no_grad():
            t = self.teacher(batch.teacher_view)
        soft, hard = alpha * batch.weight, (1 - alpha) * batch.weight
        found = token_loss(
            self.between, t, self.student(batch), soft, tau=self.tau, labels=batch.y, label_weight=hard
        )  # fmt: skip
        assert found.ce is not None
        return {"ce": found.ce, "kd": found.total}
