"""PACED: distillation at the frontier of student competence (Xu et al., 2026). https://arxiv.org/abs/2603.11178

    p_i = 1/K sum_k 1[ answer k of the student to problem i is right ]
    w_i = p_i^a (1 - p_i)^b / mean_j p_j^a (1 - p_j)^b
    L = mean_i w_i 1/|y_i| sum_t D_t,     D = KL(p_T || p_S) first, KL(p_S || p_T) then

Problems that the student always or never solves teach nothing; the others count by how open they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, field
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Setting, roles
from limbeck.core.modules import freeze, gather
from limbeck.data.tokens import Tokens
from limbeck.losses.vocabulary import ForwardKL, ReverseKL, token_loss
from limbeck.methods.language._shared import Verifier, answers, each_row, exact, repeated

CARD = Card(
    key="paced",
    title="PACED: Distillation at the Frontier of Student Competence",
    authors="Yuanda Xu, Hejian Sang, Zhengze Zhou, Ran He, Zhipeng Wang",
    year=2026,
    url="https://arxiv.org/abs/2603.11178",
    repo="https://github.com/HJSang/OPSD_OnPolicyDistillation",
    family="language",
    summary="Problems count by how often the student solves them: most at half the time, nothing at never or always.",
    modality="text",
    teacher="frozen",
    signal="logits",
    loop="on_policy",
    needs=("logits",),
    vanishes=("kl",),
    fidelity="reconstruction",
    notes="Assumed: K, when pass rates are taken again, where the direction changes. The released code has no such "
    "weight. Self-distillation is a teacher that is a copy of the student. Costs K answers a problem and refresh. "
    "While no problem met so far is sometimes solved and sometimes not, all count alike.",
)


def competence(rate: Tensor, a: float, b: float) -> Tensor:
    """``p^a (1 - p)^b``, zero at both ends whatever the powers: rates (...) in [0, 1] -> (...)."""
    inside = (rate > 0) & (rate < 1)
    return torch.where(inside, rate**a * (1 - rate) ** b, 0)


class PACED(Method):
    """Forward, then reverse KL to the teacher, each problem weighed by the student's pass rate."""

    student: nn.Module
    teacher: nn.Module
    verify: Verifier = exact
    _: KW_ONLY
    examples: Count = 1
    """Rows of the training set, hence of the table of pass rates. A run fills this in."""
    a: NonNegative = 1.0
    """Power of p. Paper: 1; studied from 0.5 to 2."""
    b: NonNegative = 1.0
    """Power of 1 - p."""
    rollouts: Count = 8
    """K, answers that a pass rate is taken from."""
    refresh: Positive = 0.5
    """Share of the run after which pass rates are taken again. Paper: once a stage."""
    switch: Fraction = 0.5
    """Share of the run under the forward KL, on the data; then the reverse KL, on the student's answers."""
    sample_tau: Positive = 1.0
    """Temperature of answers."""
    longest: Count = 128
    """Words of an answer at most."""

    rates: Tensor = field(init=False)
    period: Tensor = field(init=False)

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.register_buffer("rates", torch.zeros(self.examples))
        self.register_buffer("period", torch.full((self.examples,), -1))  # in which a row's rate was taken

    def weights(self, batch: Tokens, clock: Clock) -> Tensor:
        """(B,) of mean one over the problems met in this period, whose pass rates are taken when they come up first."""
        now = int(clock.fraction / self.refresh)
        rate, stale = self.rates[batch.index], self.period[batch.index] != now
        if bool(gather(stale).any()):  # a sharded student is asked by all processes or by none
            which = stale if bool(stale.any()) else torch.arange(len(stale), device=stale.device) == 0
            asked = repeated(batch, self.rollouts, which)
            right = self.verify(answers(self.student, asked, longest=self.longest, tau=self.sample_tau), asked)
            rate = torch.where(stale, rate.masked_scatter(which, right.view(-1, self.rollouts).mean(1).to(rate)), rate)
        rows = gather(batch.index)  # tables are equal in all processes
        self.rates[rows], self.period[rows] = gather(rate), now
        level = competence(self.rates[self.period == now], self.a, self.b).mean()
        return competence(rate, self.a, self.b) / level if level > 0 else torch.ones_like(rate)

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        w, forward = self.weights(batch, clock), clock.fraction < self.switch
        if not forward:
            batch = answers(self.student, batch, longest=self.longest, tau=self.sample_tau)
        with torch.no_grad():
            t = self.teacher(batch.teacher_view)
        objective = ForwardKL() if forward else ReverseKL()
        return {"kl": token_loss(objective, t, self.student(batch), each_row(batch) * w[:, None]).total}

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """One fit, with a table as long as the training set."""
        method = cls(**roles(cls, setting), **{**values, "examples": len(setting.data.dataset)})
        setting.fit(method)
        return method.student
