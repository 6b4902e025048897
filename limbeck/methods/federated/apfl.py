"""Adaptive Personalized Federated Learning (Deng, Kamani and Mahdavi, 2020). https://arxiv.org/abs/2003.13461

Client i has its copy w_i of the shared model, which alone travels, a private model v_i and a number alpha_i. A step is

    vbar_i  = alpha_i v_i + (1 - alpha_i) w_i
    w_i     <- w_i - eta grad f_i(w_i; b)
    v_i     <- v_i - eta alpha_i grad f_i(vbar_i; b)
    alpha_i <- clip(alpha_i - eta_alpha <v_i - w_i, grad f_i(vbar_i; b)>, 0, 1)

all with what was there before the step (algorithm 1). Decisions are vbar_i's. The more a client differs from the
others, the larger alpha_i becomes.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Setting, Update
from limbeck.federated.client import Client
from limbeck.federated.payload import Payload, part, put, shapes, take
from limbeck.federated.rounds import Clients, Round
from limbeck.methods.federated._shared import exchange, federate, judged, weighted_mean

CARD = Card(
    key="apfl",
    title="Adaptive Personalized Federated Learning",
    authors="Yuyang Deng, Mohammad Mahdi Kamani, Mehrdad Mahdavi",
    year=2020,
    url="https://arxiv.org/abs/2003.13461",
    repo="https://github.com/MLOPTPSU/FedTorch",
    family="federated",
    summary="Every client mixes the shared model with one of its own, as much as its data differ; weights travel.",
    modality="federated",
    teacher="none",
    signal="weights",
    notes="Nothing is distilled: parameters are interpolated. Weights of the shared model travel, which is not private "
    "by itself; v and alpha stay. The shared model comes out. The mixture has batch norm statistics of its own, "
    "which are private too. The factor alpha in v's gradient, which many codes leave out, is there.",
)


class APFL(Method):
    """The shared model; private ones and their shares stay at the clients."""

    student: nn.Module
    clients: Clients | None = None
    _: KW_ONLY
    population: Count = 20
    """K, how many clients share the training set."""
    split: str = "dirichlet-0.1"
    """How it is shared out: iid, dirichlet-ALPHA, shards-N, rotation-G or contrast-G."""
    participation: Fraction = 0.2
    """The share of the clients that a round asks; at least one."""
    epochs: Count = 2
    """Passes over a client's rows in a round."""
    batch: Count = 16
    """Rows a step at a client."""
    lr: Positive = 0.05
    """eta of both models."""
    alpha: Fraction = 0.5
    """alpha_i at the start."""
    lr_alpha: NonNegative = 0.05
    """eta_alpha; with 0 alpha stays."""

    def broadcast(self, client: int) -> Payload:
        return take(self.student, "student")

    def private(self, client: Client) -> tuple[Payload, Tensor, Payload]:
        """v_i, alpha_i and the mixture's statistics; at first the shared model's, and the start value."""
        if client.state:
            return part(client.state, "v"), client.state["alpha"].clone(), part(client.state, "statistics")
        v = {n: p.detach().clone() for n, p in self.student.named_parameters()}
        return v, torch.tensor(float(self.alpha)), {n: b.clone() for n, b in self.student.named_buffers()}

    def step(
        self, x: Tensor, y: Tensor, v: Payload, alpha: Tensor, statistics: Payload
    ) -> tuple[Payload, Tensor, Tensor]:
        """One step of all three, w and the mixture's statistics in place: the new v, alpha, and the loss of vbar."""
        w = dict(self.student.named_parameters())
        mixed = {n: (alpha * v[n] + (1 - alpha) * p.detach()).requires_grad_() for n, p in w.items()}
        own = torch.autograd.grad(F.cross_entropy(self.student(x), y), list(w.values()))
        loss = F.cross_entropy(functional_call(self.student, {**mixed, **statistics}, (x,)), y)
        there = dict(zip(w, torch.autograd.grad(loss, list(mixed.values())), strict=True))
        with torch.no_grad():
            slope = torch.stack([((v[n] - p) * there[n]).sum() for n, p in w.items()]).sum()
            v = {n: v[n] - self.lr * alpha * there[n] for n in w}
            for p, g in zip(w.values(), own, strict=True):
                p -= self.lr * g
            return v, (alpha - self.lr_alpha * slope).clamp(0, 1), loss.detach()

    def local(self, client: Client, got: Payload) -> Payload:
        put(self.student, got, "student")
        (v, alpha, statistics), losses = self.private(client), list[Tensor]()
        for x, y in client.batches(self.epochs, self.batch):
            v, alpha, loss = self.step(x, y, v, alpha, statistics)
            losses.append(loss)
        kept = {f"statistics/{n}": b for n, b in statistics.items()}
        client.state = {**{f"v/{n}": p for n, p in v.items()}, **kept, "alpha": alpha}
        return {**take(self.student, "student"), "loss": torch.stack(losses).mean(), "alpha": alpha}

    def judge(self, client: Client, got: Payload) -> Payload:
        put(self.student, got, "student")
        v, alpha, statistics = self.private(client)
        with torch.no_grad():
            for n, p in self.student.named_parameters():
                p.lerp_(v[n], float(alpha))
            for n, b in self.student.named_buffers():
                b.copy_(statistics[n])
        return judged(self.student, client)

    def updates(self, batch: Round, clock: Clock) -> Generator[Update, bool, None]:
        answers = exchange(self, batch, {**shapes(take(self.student, "student")), "loss": (), "alpha": ()})
        if answers.replies:
            put(self.student, weighted_mean(answers.replies, "student"), "student")
            answers.logs["alpha"] = torch.stack([reply.payload["alpha"] for reply in answers.replies]).mean()
        yield Update({}, logs=answers.logs)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        return federate(cls, setting, values)
