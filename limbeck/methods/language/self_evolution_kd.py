"""Self-evolution knowledge distillation for LLM-based machine translation (Song et al., 2024).
https://arxiv.org/abs/2412.15303

    p~ = lambda onehot(y) + (1 - lambda) p_T                      what is to be learnt, from text and teacher
    d = KL(p~ || p_S)                                             how hard a word is
    r = r_max d / max d  where d > mean d,  else 0                how much help it gets
    L = mean KL(p~ || (1 - r) p_S + r p~)

A hard word is compared after the student was given part of the answer, so that words far out of its reach do not
dominate; as they come nearer, the help fades. No gradient through p~ and r. With r = 0 it is plain KL to p~.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from functools import partial

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method
from limbeck.core.modules import freeze
from limbeck.data.tokens import Tokens
from limbeck.losses.divergence import kl, skewed_kl
from limbeck.losses.vocabulary import token_loss

CARD = Card(
    key="self_evolution_kd",
    title="Self-Evolution Knowledge Distillation for LLM-based Machine Translation",
    authors="Yuncheng Song, Liang Ding, Changtong Zan, Shujian Huang",
    year=2024,
    url="https://arxiv.org/abs/2412.15303",
    family="language",
    summary="On words that are hard for it, the student gets part of the answer before it is compared.",
    modality="text",
    teacher="frozen",
    signal="logits",
    needs=("logits",),
    fidelity="reconstruction",
    notes="No code is public. Assumed: the border between easy and hard (the mean difficulty of the batch), the ratio "
    "(linear in the difficulty, r_max at the hardest word), lambda and r_max. The paper's blended target, difficulty, "
    "division and proxy distribution are its own.",
)


def blended(p: Tensor, labels: Tensor, lam: float) -> Tensor:
    """``log(lam onehot(label) + (1 - lam) exp(p))``: (n, V) log-probabilities, (n,) -> (n, V)."""
    own, rest = torch.tensor([lam, 1 - lam], dtype=p.dtype, device=p.device).log()
    mixed, at = p + rest, labels[:, None]
    return mixed.scatter(-1, at, mixed.gather(-1, at).logaddexp(own.expand(len(p), 1)))


def help_ratio(difficulty: Tensor, mask: Tensor, r_max: float) -> Tensor:
    """r: difficulty (B, T), >= 0, and a mask (B, T) -> (B, T) in [0, r_max]; 0 outside of the mask."""
    inside = difficulty[mask]
    hard = mask & (difficulty > inside.mean())
    return hard * r_max * difficulty / inside.max().clamp(min=torch.finfo(difficulty.dtype).tiny)


class SelfEvolutionKD(Method):
    """KL to a blend of labels and teacher, with help for hard words."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    lam: Fraction = 0.5
    """lambda, the label's share of what is to be learnt."""
    r_max: Fraction = 0.5
    """Share of the answer that the hardest word of a batch is given, below 1."""

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            signal = self.teacher(batch.teacher_view)
        words = self.student(batch)
        with torch.no_grad():
            d = token_loss(partial(helped, lam=self.lam), signal, words, batch.mask.float(), batch.y).values
        r = help_ratio(d, batch.mask, self.r_max)
        return {"kl": token_loss(partial(helped, lam=self.lam), signal, words, batch.weight, batch.y, r).total}


def helped(p: Tensor, q: Tensor, labels: Tensor, r: Tensor | None = None, *, lam: float) -> Tensor:
    """``KL(p~ || (1 - r) q + r p~)``, r = 0 without: (n, V), (n, V), (n,), (n,) -> (n,)."""
    target = blended(p, labels, lam)
    return kl(target, q) if r is None else skewed_kl(target, q, r)
