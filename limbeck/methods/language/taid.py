"""TAID: temporally adaptive interpolated distillation for language models (Shing et al., 2025).
https://arxiv.org/abs/2501.16937

    L(t) = KL(p_t || p_S),    p_t = softmax((1 - t) sg(z_S) + t z_T)
    delta = (L_(n-1) - L_n) / (L_(n-1) + eps),    m <- beta m + (1 - beta) delta
    t <- min(t_end, max(t_start + (t_end - t_start) n / N, t + alpha sigmoid(m) (1 - t)))

The target starts near the student, where there is little to learn, and ends at the teacher. t never falls behind its
straight line, and runs ahead of it while the loss falls. m starts at 0; the first step only notes its loss.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, Update
from limbeck.core.modules import freeze, gather
from limbeck.data.tokens import Tokens
from limbeck.errors import InputError
from limbeck.losses.divergence import cross_entropy, kl
from limbeck.losses.vocabulary import token_loss

CARD = Card(
    key="taid",
    title="TAID: Temporally Adaptive Interpolated Distillation for Efficient Knowledge Transfer in Language Models",
    authors="Makoto Shing, Kou Misaki, Han Bao, Sho Yokoi, Takuya Akiba",
    year=2025,
    url="https://arxiv.org/abs/2501.16937",
    repo="https://github.com/SakanaAI/TAID",
    family="language",
    summary="The target moves from the student's own distribution to the teacher's, faster while learning goes well.",
    modality="text",
    teacher="frozen",
    data="unlabelled",
    signal="logits",
    needs=("logits",),
    vanishes=("taid",),
    notes="The released code leaves the target's entropy in the loss (progress 'cross_entropy'): the gradient is the "
    "same, the measured progress is smaller. The loss that steers t is the mean of all processes and of all parts of "
    "an accumulated step.",
)


def between(p: Tensor, q: Tensor, t: Tensor) -> Tensor:
    """``log softmax((1 - t) q + t p)`` of log-probabilities (n, V), no gradient: logits differ from them by a constant
    a row, which the softmax does not see."""
    return torch.lerp(q.detach(), p, t).log_softmax(-1)


class TAID(Method):
    """Forward KL to a target between the student and the teacher."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    t_start: Fraction = 0.4
    """The teacher's share at the beginning. Paper: 0.4, and 0.2 where student and teacher are further apart."""
    t_end: Fraction = 1.0
    """The teacher's share that is never exceeded."""
    alpha: Fraction = 5e-4
    """The largest gain of t in a step; 0 leaves the straight line."""
    beta: Fraction = 0.99
    """Of the running average of the loss's relative drop."""
    progress: Literal["kl", "cross_entropy"] = "kl"
    """Whose drop is measured: the paper's KL, or the released code's cross-entropy, which has the target's entropy."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        if not self.t_start <= self.t_end:
            raise InputError("t_start", self.t_start, f"must not be above t_end, {self.t_end}")
        place = next(self.student.parameters()).device
        for name, start in {"t": self.t_start, "momentum": 0.0, "previous": -1.0, "summed": 0.0, "parts": 0.0}.items():
            self.register_buffer(name, torch.tensor(start, device=place))

    def updates(self, batch: Tokens, clock: Clock) -> Generator[Update, bool, None]:
        """One step, after which t moves."""
        measure = kl if self.progress == "kl" else cross_entropy
        with torch.no_grad():
            signal = self.teacher(batch.teacher_view)
        t = self.t.clone()
        found = token_loss(lambda p, q: measure(between(p, q, t), q), signal, self.student(batch), batch.weight).total
        self.summed, self.parts = self.summed + found.detach(), self.parts + 1
        if (yield Update({"taid": found}, logs={"t": t})):
            self.steer(gather(self.summed[None]).mean() / self.parts, clock)

    def steer(self, loss: Tensor, clock: Clock) -> None:
        """Move t after a step whose mean loss was ``loss``, a scalar that is equal in all processes."""
        if self.previous >= 0:
            drop = (self.previous - loss) / (self.previous + 1e-15)
            self.momentum = self.beta * self.momentum + (1 - self.beta) * drop
            gain = self.alpha * self.momentum.sigmoid() * (1 - self.t)
            line = self.t_start + (self.t_end - self.t_start) * clock.fraction
            self.t = (self.t + gain).clamp(min=line).clamp(max=self.t_end)
        self.previous, self.summed, self.parts = loss, torch.zeros_like(loss), torch.zeros_like(self.parts)
