"""PGFed: Personalize Each Client's Global Objective for Federated Learning (Luo et al., 2022).
https://arxiv.org/abs/2212.01448

    F_i(theta_i)  = f_i(theta_i) + mu sum_j a_ij f~_j(theta_i)
    f~_j(theta_i) = f_j(theta_j) + <g_j, theta_i - theta_j>,      g_j = grad f_j(theta_j)
    grad F_i      = grad f_i + G_i,                               G_i = mu sum_j a_ij g_j
    a_ij         <- max(0, a_ij - lambda mu (f_j - <g_j, theta_j> + <g_j, theta_i>))

Each client minimises its own risk and a learnt share of the others', which are replaced by their first-order expansions
where those clients last were: a gradient and a number each. j runs over those who took part in the round before.
PGFedMo smooths G_i over rounds by beta.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Setting, Update
from limbeck.core.modules import eval_mode
from limbeck.federated.client import Client
from limbeck.federated.payload import Payload, put, shapes, take
from limbeck.federated.rounds import Clients, Reply, Round
from limbeck.methods.federated._shared import exchange, federate, judged, train_locally, weighted_mean

CARD = Card(
    key="pgfed",
    title="PGFed: Personalize Each Client's Global Objective for Federated Learning",
    authors="Jun Luo, Matias Mendieta, Chen Chen, Shandong Wu",
    year=2022,
    url="https://arxiv.org/abs/2212.01448",
    repo="https://github.com/ljaiverson/pgfed",
    family="federated",
    summary="Each client adds learnt shares of the others' linearised risks to its own; weights and gradients travel.",
    modality="federated",
    teacher="none",
    signal="weights",
    notes="Nothing is distilled. Weights, gradients and losses travel, twice FedAvg's traffic up, and are not private "
    "by themselves. With inner='mean' one inner product, with the mean gradient, serves for all j, as in the released "
    "code; the default sends all gradients of the round before. A client's own risk is not counted a second time. "
    "Absent clients keep their shares. Gradients are of all rows in eval mode. What comes out is the mean model.",
)


class PGFed(Method):
    """The mean model and everybody's shares; each client is judged by the model it trained last."""

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
    """The clients' learning rate."""
    momentum: Fraction = 0.0
    """Of the clients' SGD; 0.9 in the paper."""
    mu: NonNegative = 0.05
    """Weight of the others' risks."""
    lam: NonNegative = 0.01
    """lambda: learning rate of the shares a."""
    beta: Fraction = 0.0
    """PGFedMo's smoothing of G_i over rounds; 0 for PGFed."""
    inner: Literal["exact", "mean"] = "exact"
    """<g_j, theta_i> for every j, or with the mean gradient for all, which is less to send."""

    def __post_init__(self) -> None:
        size, k = sum(p.numel() for p in self.student.parameters()), self.population
        most = max(1, round(self.participation * k))
        self.register_buffer("a", torch.full((k, k), 1.0 / most).fill_diagonal_(0))
        self.register_buffer("who", torch.full((most,), -1))  # took part last; -1 where nobody did
        self.register_buffer("g", torch.zeros(most, size))
        self.register_buffer("c", torch.zeros(most))  # f_j - <g_j, theta_j>
        self.register_buffer("smooth", torch.zeros(k if self.beta else 0, size))

    def broadcast(self, client: int) -> Payload:
        n = int((self.who >= 0).sum())
        g = self.g[:n] if self.inner == "exact" or not n else self.g[:n].mean(0, keepdim=True)
        return {
            **take(self.student, "student"), "pull": self.pull(client), "g": g.clone(), "c": self.c[:n].clone(),
            "who": self.who[:n].clone(), "a": self.a[client].clone(),
        }  # fmt: skip

    def pull(self, client: int) -> Tensor:
        """G_i, smoothed over rounds where it is to be."""
        known = self.who >= 0
        pull = self.mu * self.a[client, self.who[known]] @ self.g[known]
        return self.beta * self.smooth[client] + (1 - self.beta) * pull if self.beta else pull

    def local(self, client: Client, got: Payload) -> Payload:
        put(self.student, got, "student")
        parameters, a, who, pull = list(self.student.parameters()), got["a"].clone(), got["who"], got["pull"]

        def adjust() -> None:
            """After the backward pass: the others' gradient, and a step of the shares at the present parameters."""
            theta = torch.cat([p.detach().flatten() for p in parameters])
            for p, extra in zip(parameters, pull.split([p.numel() for p in parameters]), strict=True):
                assert p.grad is not None
                p.grad += extra.view_as(p)
            if len(who):
                risk = self.mu * (got["c"] + got["g"] @ theta)
                a[who] = (a[who] - self.lam * risk).clamp(min=0)
                a[client.number] = 0

        loss = train_locally(
            self.student, client, lambda x, y: F.cross_entropy(self.student(x), y), epochs=self.epochs,
            batch=self.batch, lr=self.lr, momentum=self.momentum, adjust=adjust,
        )  # fmt: skip
        x, y = client.train.take(torch.arange(len(client.train)))
        with eval_mode(self.student):
            risk = F.cross_entropy(self.student(x), y)
        g = torch.cat([slope.flatten() for slope in torch.autograd.grad(risk, parameters)])
        c = risk.detach() - g @ torch.cat([p.detach().flatten() for p in parameters])
        client.state = take(self.student, "student")
        return {**client.state, "loss": loss, "g": g, "c": c, "a": a}

    def judge(self, client: Client, got: Payload) -> Payload:
        put(self.student, client.state or got, "student")
        return judged(self.student, client)

    def remember(self, replies: list[Reply]) -> None:
        """What the next round needs of those who took part."""
        if self.beta:
            for reply in replies:
                self.smooth[reply.client] = self.pull(reply.client)
        self.who.fill_(-1)
        for row, reply in enumerate(replies):
            self.a[reply.client] = reply.payload["a"]
            self.who[row], self.g[row], self.c[row] = reply.client, reply.payload["g"], reply.payload["c"]

    def updates(self, batch: Round, clock: Clock) -> Generator[Update, bool, None]:
        size = self.g.shape[1]
        like = {"loss": (), "g": (size,), "c": (), "a": (self.population,)}
        answers = exchange(self, batch, {**shapes(take(self.student, "student")), **like})
        if answers.replies:
            put(self.student, weighted_mean(answers.replies, "student"), "student")
            self.remember(answers.replies)
        yield Update({}, logs=answers.logs)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        return federate(cls, setting, values)
