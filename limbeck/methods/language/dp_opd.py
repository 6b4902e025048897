"""DP-OPD: differentially private on-policy distillation for language models (Khadem, Mousavi, Fang & Liu, 2026).
https://arxiv.org/abs/2604.04461

    g_i = grad 1/|y_i| sum_t D_beta(p_T(. | x_i, y_<t) || p_S(. | x_i, y_<t)),    y_i ~ p_S with probability lmbda
    g = 1 / (q N) (sum_i g_i min(1, C / ||g_i||) + N(0, sigma^2 C^2 I)),         records drawn by coins of chance q

Privacy is in the update alone: what a record is continued with depends on that record and on parameters that are
private already, so answers cost no budget. The teacher must never have seen the records, or be private itself.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, Positive, Setting, Update, Weight, roles, value
from limbeck.core.modules import freeze
from limbeck.core.privacy import Mechanism, private_gradient
from limbeck.data.poisson import PoissonBatches
from limbeck.data.tokens import TokenBatches, Tokens
from limbeck.errors import InputError
from limbeck.losses.vocabulary import token_loss
from limbeck.methods.language._shared import answers, divergence, each_row

CARD = Card(
    key="dp_opd",
    title="DP-OPD: Differentially Private On-Policy Distillation for Language Models",
    authors="Fatemeh Khadem, Sajad Mousavi, Yi Fang, Yuhong Liu",
    year=2026,
    url="https://arxiv.org/abs/2604.04461",
    repo="https://github.com/khademfatemeh/dp_opd",
    family="language",
    summary="The student answers private prompts and is corrected, by clipped and noisy steps that hide every record.",
    modality="text",
    teacher="frozen",
    signal="logits",
    loop="on_policy",
    needs=("logits",),
    fidelity="reconstruction",
    notes="Assumed: clipping norm, lmbda, beta, delta 1/N, Renyi accounting. A record is a row: no packing, and a text "
    "of several rows is protected a row at a time. Gradients are taken a record at a time, as many small backwards: "
    "opacus's hooks miss a head that a loss reads and count tied embeddings twice. The logged loss and clipped share "
    "are not private; the seed, which draws the records, is a secret. Each accumulated part of a step is a step.",
)


class DPOPD(Method):
    """GKD by DP-SGD, until the budget is spent."""

    student: nn.Module
    teacher: nn.Module
    mechanism: Mechanism | None = None
    _: KW_ONLY
    epsilon: Positive = 2.0
    """The privacy budget of the whole training."""
    delta: Positive | None = None
    """Chance that the budget does not hold; None: 1 / number of records."""
    norm: Positive = 1.0
    """C, which each record's gradient is cut to."""
    lmbda: Weight = 1.0
    """Chance of a record to be answered by the student instead of the data: 0 to 1, or a schedule."""
    beta: Fraction = 0.5
    """Of the divergence: 0 is the forward KL, 1 the reverse."""
    tau: Positive = 1.0
    """Temperature of both distributions."""
    sample_tau: Positive = 1.0
    """Temperature at which answers are sampled."""
    longest: Count = 128
    """Words of an answer at most."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.register_buffer("spent", torch.zeros((), dtype=torch.int64))

    def losses(self, batch: Tokens, clock: Clock) -> Iterator[Tensor]:
        """The mean divergence over the words of each record, one after another."""
        own = torch.rand(len(batch.x)) < value(self.lmbda, clock)
        for part, answered in ((batch.rows(own), True), (batch.rows(~own), False)):
            if not len(part.x):
                continue
            if answered:
                part = answers(self.student, part, longest=self.longest, tau=self.sample_tau)
            with torch.no_grad():
                theirs = self.teacher(part)
            for k in range(len(part.x)):
                mask = torch.zeros_like(part.mask)
                mask[k] = part.mask[k]
                row, length = part.rows(torch.tensor([k])), int((part.segment[k] > 0).sum())
                row = Tokens(*(x[:, :length] for x in row[:3]), row.index, row.key)
                ours, weight = self.student(row).rows(row.mask), each_row(row)[row.mask]
                yield token_loss(divergence(self.beta), theirs.rows(mask), ours, weight, tau=self.tau).total

    def updates(self, batch: Tokens, clock: Clock) -> Generator[Update, bool, None]:
        """One update whose gradient is the private one."""
        if self.mechanism is None or batch.packed:
            raise InputError("mechanism", self.mechanism, "or packed rows: give a Mechanism, and a record a row")
        spent = self.mechanism.epsilon(int(self.spent) + 1)
        if self.mechanism.noise and spent > self.epsilon:
            raise InputError("epsilon", self.epsilon, f"is spent after {int(self.spent)} steps; accumulate nothing")
        self.spent += 1
        moved = [p for p in self.student.parameters() if p.requires_grad]
        found = private_gradient(self.losses(batch, clock), moved, self.norm, self.mechanism)
        linear = sum(((p * g).sum() for p, g in zip(moved, found.gradient, strict=True)), torch.zeros(()))
        term = found.loss + linear - linear.detach()  # worth the loss, with the private gradient
        yield Update({"jsd": term}, logs={"epsilon": torch.tensor(spent), "clipped": found.clipped})

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Find the noise that the budget asks for, then train on rows drawn by coins."""
        method, data = cls(**roles(cls, setting), **values), setting.data
        if not isinstance(data, TokenBatches):
            raise InputError("data", type(data).__name__, "cannot be sampled row by row; give TokenBatches")
        n = len(data.dataset)
        method.mechanism = Mechanism.within(
            method.epsilon, method.delta or 1 / n, records=n, batch=min(data.batch, n), steps=setting.steps
        )
        setting.fit(method, data=PoissonBatches(data.dataset, min(data.batch, n), seed=data.seed))
        return method.student
