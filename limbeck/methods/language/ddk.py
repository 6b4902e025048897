"""DDK: distilling domain knowledge for efficient large language models (Liu et al., 2024).
https://arxiv.org/abs/2407.16154

    l_S[i] = exp CE(student, V_i),   l_T[i] = exp CE(teacher, V_i)      perplexities on domain i's held-out rows
    r_0[i] = exp(l_S[i] / l_T[i]) / sum_j exp(l_S[j] / l_T[j])
    psi[i] = r_t[i] exp(l_S[i] / l_T[i]),   r_{t+1}[i] = alpha psi[i] / sum_j psi[j] + (1 - alpha) / N   every K steps
    L = CE(y, q) + gamma KL(softmax(z_T / tau) || softmax(z_S / tau)),   rows of domain i with probability r[i]

What the student reads follows where it is furthest behind its teacher. psi stays a logarithm: the exponential of a
ratio of perplexities overflows.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import KW_ONLY, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Setting, Update, roles
from limbeck.core.modules import freeze
from limbeck.data.mixture import Mixture, hold_out
from limbeck.data.tokens import TokenBatches, Tokens
from limbeck.errors import InputError
from limbeck.losses.vocabulary import ForwardKL, ReverseKL, token_loss
from limbeck.methods.language._shared import held_out_loss

CARD = Card(
    key="ddk",
    title="DDK: Distilling Domain Knowledge for Efficient Large Language Models",
    authors="Jiaheng Liu et al.",
    year=2024,
    url="https://arxiv.org/abs/2407.16154",
    family="language",
    summary="The student reads more of the kinds of text in which it is furthest behind its teacher.",
    modality="text",
    teacher="frozen",
    signal="logits",
    needs=("logits",),
    vanishes=("kd",),
    notes="Rows need a domain. Printed with the student first in the KL; both directions are offered. Start from a "
    "trained student: a fresh one's ratios are so large that r_0 is nearly one domain. Every K steps cost the student "
    "one pass over the held-out rows; the teacher reads them once.",
)
MOST = 500  # held-out rows of a domain: the paper's


class DDK(Method):
    """Labels and the teacher's words, on a mixture of domains that follows the gap between the two."""

    student: nn.Module
    teacher: nn.Module
    mixture: Mixture | None = None
    held: Sequence[Sequence[Tokens]] = ()
    _: KW_ONLY
    gamma: NonNegative = 0.2
    """Weight of the KL."""
    tau: Positive = 1.0
    """Temperature of both distributions; the KL is not multiplied by its square. Paper: 0.1 to 2 do as well."""
    divergence: Literal["forward_kl", "reverse_kl"] = "forward_kl"
    """KL(teacher || student), or, as printed, KL(student || teacher)."""
    alpha: Fraction = 0.5
    """Share of r that follows the perplexities; the rest is the same for every domain."""
    every: Count | None = None
    """K, steps between two updates of r; None: a thirtieth of the run, as in the paper, whose K is 1000."""
    held_out: Fraction = 0.05
    """Share of each domain's rows that are not trained on, from 1 to 500, to measure perplexity."""

    log_r: Tensor = field(init=False)
    teacher_ppl: Tensor = field(init=False)

    def __post_init__(self) -> None:
        freeze(self.teacher)
        place = next(iter(self.student.parameters()), torch.empty(0)).device
        self.register_buffer("log_r", torch.zeros(len(self.held), device=place))
        self.register_buffer("teacher_ppl", torch.ones(len(self.held), device=place))

    def updates(self, batch: Tokens, clock: Clock) -> Generator[Update, bool, None]:
        """One step; r is updated between steps."""
        with torch.no_grad():
            t = self.teacher(batch.teacher_view)
        kl = {"forward_kl": ForwardKL(), "reverse_kl": ReverseKL()}[self.divergence]
        s, w = self.student(batch), batch.weight
        found = token_loss(kl, t, s, self.gamma * w, tau=self.tau, labels=batch.y, label_weight=w)
        assert found.ce is not None
        names = [] if self.mixture is None else self.mixture.names
        shares = {f"r/{name}": r for name, r in zip(names, self.log_r.exp(), strict=False)}
        taken = yield Update({"ce": found.ce, "kd": found.total}, logs=shares)
        if taken and self.held and (clock.step + 1) % (self.every or max(1, clock.steps // 30)) == 0:
            self.log_r = next_log_r(self.log_r, self.ratio(), self.alpha)
            self.steer()

    def ratio(self) -> Tensor:
        """(N,): the student's perplexity over the teacher's."""
        return perplexity(self.student, self.held) / self.teacher_ppl

    def begin(self) -> None:
        """The teacher's perplexities, once, and r_0."""
        self.teacher_ppl.copy_(perplexity(self.teacher, self.held))
        self.log_r = self.ratio().log_softmax(0)
        self.steer()

    def steer(self) -> None:
        """Hand r to the mixture."""
        if self.mixture is not None:
            self.mixture.weights = self.log_r.exp().tolist()

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Hold rows of every domain out, and fit once."""
        data, given = setting.data, roles(cls, setting)
        if not isinstance(data, TokenBatches):
            raise InputError("data", type(data).__name__, "cannot be mixed; give TokenBatches")
        train, apart = hold_out(data.dataset, values.get("held_out", cls.held_out), most=MOST)
        held = [[part.take(rows) for rows in torch.arange(len(part)).split(data.batch)] for part in apart]
        method = cls(**given, mixture=Mixture(train, data.batch, seed=data.seed), held=held, **values)
        method.begin()
        setting.fit(method, data=method.mixture)
        return method.student


def next_log_r(log_r: Tensor, ratio: Tensor, alpha: float) -> Tensor:
    """(N,) ``log(alpha psi / sum psi + (1 - alpha) / N)`` with ``psi = r exp(ratio)``."""
    psi = (log_r + ratio).log_softmax(0)
    return torch.logaddexp(psi + torch.tensor(alpha).log(), torch.full_like(psi, (1 - alpha) / len(psi)).log())


def perplexity(model: nn.Module, held: Sequence[Sequence[Tokens]]) -> Tensor:
    """(N,), a domain each, in eval mode."""
    return torch.stack([held_out_loss(model, batches) for batches in held]).exp()
