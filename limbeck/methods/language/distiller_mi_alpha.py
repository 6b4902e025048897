"""Distiller: a systematic study of model distillation methods in natural language processing (He et al., 2021).
https://arxiv.org/abs/2109.11105

    m(y; x_1..x_K) = 1/K sum_i exp f(x_i, y),  r(x, y) = exp f(x, y) / (alpha m(y; x_1..x_K) + (1 - alpha) q(y))
    I_alpha = 1 + E_{p(x_1, y) p(x_2..K)} log r(x_1, y) - E_{p(x_1..K) p(y)} r(x_1, y)
    L = b1 CE(y, p_S) + b2 tau^2 KL(p_T || p_S) - b3 sum over matched layers I_alpha

x is a student's feature and y the teacher's, in the first mean of one word, in the second of independent ones; f and q
are small networks that learn with the student. I_alpha bounds the mutual information from below (Poole et al., 2019):
at alpha 1 it is InfoNCE, of low variance and at most log K; towards 0 the bound is tighter and noisier.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive
from limbeck.core.modules import Taps, freeze
from limbeck.data.tokens import Tokens
from limbeck.losses.feature import cosine, mse
from limbeck.losses.vocabulary import ForwardKL, token_loss
from limbeck.methods.language._shared import matched
from limbeck.models.causal_lm import CausalLM

CARD = Card(
    key="distiller_mi_alpha",
    title="Distiller: A Systematic Study of Model Distillation Methods in Natural Language Processing",
    authors="Haoyu He, Xingjian Shi, Jonas Mueller, Sheng Zha, Mu Li, George Karypis",
    year=2021,
    url="https://arxiv.org/abs/2109.11105",
    family="language",
    summary="Hidden states of student and teacher are made to tell as much about each other as possible.",
    modality="text",
    teacher="frozen",
    signal="features",
    needs=("features", "logits"),
    vanishes=("kd",),
    fidelity="reconstruction",
    notes="The objective with its rivals in the same slot; left out are the search over pipelines (AutoDistiller), the "
    "EMD layer map and the augmentations. Assumed: the critic, the inner product of two projections; q, a network of "
    "one hidden layer; the weights, which the paper searches. Features are those of words drawn from a batch.",
)


def mi_alpha(scores: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    """I_alpha in nats.

    Args:
        scores: (K, K), f(x_i, y_j), K >= 2; the diagonal belongs together, the rest stands for independent draws.
        log_q: (K,), log q(y_j).
        alpha: in [0, 1].
    """
    k, own = len(scores), torch.eye(len(scores), dtype=torch.bool, device=scores.device)

    def below(mean: Tensor) -> Tensor:
        parts = [(alpha, mean), (1 - alpha, log_q)]
        return torch.stack([part + math.log(share) for share, part in parts if share > 0]).logsumexp(0)

    joint = scores.diagonal() - below(scores.logsumexp(0) - math.log(k))
    apart = scores.masked_fill(own, -torch.inf)
    apart = apart - below(apart.logsumexp(0) - math.log(k - 1))
    return 1 + joint.mean() - (apart.flatten().logsumexp(0) - math.log(k * (k - 1))).exp()


class Critic(nn.Module):
    """f(x, y) = <g(x), h(y)> / sqrt(d), and log q(y)."""

    def __init__(self, student: int, teacher: int, width: int) -> None:
        super().__init__()
        self.g, self.h = nn.Linear(student, width), nn.Linear(teacher, width)
        self.q = nn.Sequential(nn.Linear(teacher, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(K, D_S), (K, D_T) -> (K, K), (K,)."""
        g, h = self.g(x), self.h(y)
        return g @ h.T / math.sqrt(g.shape[1]), self.q(y)[:, 0]


class DistillerMIAlpha(Method):
    """Labels, teacher's words, and a bound on the mutual information of hidden states, or one of its rivals."""

    student: CausalLM
    teacher: CausalLM
    _: KW_ONLY
    intermediate: Literal["mi", "mse", "cosine", "none"] = "mi"
    """What hidden states learn by; mse and cosine compare a linear map of the student's with the teacher's."""
    alpha: Fraction = 0.9
    """Between the tight noisy bound (0) and InfoNCE (1). Paper: 0.9."""
    layers: Literal["skip", "last"] = "skip"
    """Student block k learns from teacher block round(k L_T / L_S), or the last from the last alike."""
    features: Count = 256
    """K, words of a batch whose states are compared, drawn at random."""
    critic: Count = 128
    """Width of critic and q."""
    hard: NonNegative = 1.0
    """b1, of the labels."""
    soft: NonNegative = 1.0
    """b2, of the teacher's words."""
    inner: NonNegative = 0.01
    """b3, of the hidden states. At 0.1 the bound, some nats a layer, outweighed the words in small runs here."""
    tau: Positive = 1.0
    """Temperature of the KL."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        ours, theirs = self.student, self.teacher
        self.pairs = matched(ours.depth, theirs.depth, self.layers) if self.intermediate != "none" else []
        made = Critic if self.intermediate == "mi" else lambda a, b, _: nn.Linear(a, b)
        self.critics = nn.ModuleList(made(ours.width, theirs.width, self.critic) for _ in self.pairs).to(ours.device)
        self.read = Taps(*(ours.blocks[s] for s, _ in self.pairs)), Taps(*(theirs.blocks[t] for _, t in self.pairs))

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            t, theirs = self.read[1](self.teacher, batch.teacher_view)
        words, ours = self.read[0](self.student, batch)
        soft, hard = self.soft * self.tau**2 * batch.weight, self.hard * batch.weight
        found = token_loss(ForwardKL(), t, words, soft, tau=self.tau, labels=batch.y, label_weight=hard)
        assert found.ce is not None
        terms = {"ce": found.ce, "kd": found.total}
        at = batch.mask.flatten().nonzero()[:, 0]
        if self.pairs and len(at) > 1:
            at = at[torch.randperm(len(at), device=at.device)[: self.features]]
            rows = [[h.flatten(0, 1)[at] for h in states] for states in (ours, theirs)]
            apart = [self.apart(*part) for part in zip(self.critics, *rows, strict=True)]
            terms["inner"] = self.inner * torch.stack(apart).sum()
        return terms

    def apart(self, critic: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """One pair of layers, states (K, D_S) and (K, D_T) of the same words."""
        x, y = x.float(), y.float()
        if self.intermediate == "mi":
            scores, log_q = critic(x, y)
            return -mi_alpha(scores, log_q, self.alpha)
        return {"mse": mse, "cosine": cosine}[self.intermediate](critic(x), y).mean()
