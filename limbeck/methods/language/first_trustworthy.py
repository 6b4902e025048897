"""FIRST: teach a reliable large language model through efficient trustworthy distillation (Shum et al., 2024).
https://arxiv.org/abs/2408.12168

    S_t = the five likeliest words of the teacher,    q_T(i) = p_T(i)^(1/tau) / sum_(j in S_t) p_T(j)^(1/tau)
    L = 1/B sum_b sum_t sum_(i in S_t) q_T(i) log(q_T(i) / q_S(i)),   q_S(i) = p_S(i) / sum_(j in S_t) p_S(j)
    tau = argmin ECE(teacher; tau) on held-out rows

The teacher is fine-tuned on the task and is too sure, the more so once its five likeliest words are made to sum to one;
its stored words are recalibrated before the student learns them. There are no labels in the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, Positive, Setting, roles
from limbeck.core.modules import freeze
from limbeck.data.tokens import TokenBatches, Tokens
from limbeck.diagnostics.calibration import ece
from limbeck.errors import InputError
from limbeck.losses.divergence import kl
from limbeck.losses.vocabulary import Signal, TopK, Words, token_values, top_k_words

CARD = Card(
    key="first_trustworthy",
    title="FIRST: Teach A Reliable Large Language Model Through Efficient Trustworthy Distillation",
    authors="KaShun Shum et al.",
    year=2024,
    url="https://arxiv.org/abs/2408.12168",
    repo="https://github.com/SHUMKASHUN/FIRST",
    family="language",
    summary="The student learns a fine-tuned teacher's five likeliest words, made as sure as they are right.",
    modality="text",
    teacher="frozen",
    signal="probabilities",
    needs=("topk",),
    fidelity="reconstruction",
    notes="Assumed: the grid of temperatures; held-out rows, which the student does not see. The teacher is the run's: "
    "fine-tune it first. Nothing lowers words outside the five, so start from a trained student, or keep the rest as a "
    "sixth outcome. The released code smooths log-probabilities, of the student too, takes a softmax of probabilities "
    "and adds 1e-6 to each; here the teacher's probabilities alone are smoothed, and nothing is added.",
)
GRID = tuple(k / 10 for k in range(1, 31))


def smoothed(log_p: Tensor, moved: float) -> Tensor:
    """Renormalised over (..., k), likeliest first, with ``moved`` taken from the first and spread over the others."""
    first, others = log_p.softmax(-1).split([1, log_p.shape[-1] - 1], -1)
    share = first.clamp(max=moved)
    return torch.cat([first - share, others + share / others.shape[-1]], -1).log()


class First(Method):
    """Forward KL on the teacher's k likeliest words, both sides renormalised over them."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    k: Annotated[int, Ge(2)] = 5
    """Words kept a position."""
    recalibrate: Literal["temperature", "smoothing"] = "temperature"
    """How the teacher's words are recalibrated. Paper: temperature is best; smoothing hurts what is rightly sure."""
    tau: Positive | None = None
    """Temperature of the recalibration, 1 for none; None: the one with the least calibration error on held-out rows."""
    held: Fraction = 0.1
    """Share of the training rows that are held out to choose tau. A teacher that was tuned on them looks less sure than
    it is right there, and is made surer: give tau then."""
    smoothing: Fraction = 0.1
    """What smoothing takes from the likeliest word."""
    rest: bool = False
    """Keep the mass of all other words as one more outcome."""

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            top = likeliest(self.teacher(batch.teacher_view), self.k).rows(batch.mask)
            kept = self.outcomes(top.log_prob)
            hot = self.recalibrate == "temperature"
            target = (kept / (self.tau or 1.0)).log_softmax(-1) if hot else smoothed(kept, self.smoothing)

        def divergence(q: Tensor, at: slice) -> Tensor:
            return kl(target[at], self.outcomes(q.gather(-1, top.index[at])).log_softmax(-1))

        found = token_values(self.student(batch).rows(batch.mask), divergence)
        return {"kl": found.sum() / len(batch.x)}

    def outcomes(self, log_p: Tensor) -> Tensor:
        """The words kept, (n, k), or these and the rest, (n, k + 1)."""
        if not self.rest:
            return log_p
        left = 1 - log_p.exp().sum(-1, keepdim=True)
        return torch.cat([log_p, left.clamp(min=1e-6).log()], -1)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Choose tau on held-out rows, then train on the others."""
        method, data = cls(**roles(cls, setting), **values), setting.data
        if method.tau is None and method.recalibrate == "temperature":
            if not isinstance(data, TokenBatches) or not 0 < method.held < 1:
                raise InputError("held", method.held, "of the rows cannot be held out; give tau")
            every, rows = max(2, round(1 / method.held)), range(len(data.dataset))
            method.tau = method.best_tau(data.with_data(data.dataset.subset(rows[::every])))
            data = data.with_data(data.dataset.subset([k for k in rows if k % every]))
        setting.fit(method, data=data)
        return method.student

    @torch.no_grad()
    def best_tau(self, held: TokenBatches) -> float:
        """The temperature whose five words are as likely as they are right: the least calibration error."""
        device = next(self.student.parameters()).device
        sure, right = list[Tensor](), list[Tensor]()
        for batch in held.plain(held.batch):
            batch = batch.to(device)
            top = likeliest(self.teacher(batch.teacher_view), self.k).rows(batch.mask)
            hit = top.index == batch.y[batch.mask][:, None]
            sure.append(self.outcomes(top.log_prob))
            right.append(torch.where(hit.any(1), hit.int().argmax(1), sure[-1].shape[1] - 1))  # else the rest, or wrong
        log_p, place = torch.cat(sure), torch.cat(right)
        return min(GRID, key=lambda tau: ece((log_p / tau).log_softmax(-1), place))


def likeliest(signal: Signal, k: int) -> TopK:
    """The k likeliest words of each token, likeliest first."""
    if isinstance(signal, Words):
        return top_k_words(signal, k)
    if not isinstance(signal, TopK) or signal.index.shape[-1] < k:
        raise InputError("k", k, "likeliest words are not in the stored signal; capture topk with as many")
    best = signal.log_prob.topk(k, -1)
    return signal._replace(index=signal.index.gather(-1, best.indices), log_prob=best.values.float())
