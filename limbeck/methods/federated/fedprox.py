"""Federated Optimization in Heterogeneous Networks (FedProx).

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, MLSys 2020. https://arxiv.org/abs/1812.06127

FedAvg with two changes. A client's objective keeps it near the weights w^t that it was sent,

    h_k(w; w^t) = F_k(w) + mu / 2 ||w - w^t||^2,

and is solved as exactly as the client can afford (gamma_k-inexact): a straggler sends what it has after fewer epochs
instead of being dropped. As in the paper's experiments, which clients are stragglers and how many epochs, uniform in
1..E, they manage is drawn anew in every round.
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
from limbeck.federated.client import Client
from limbeck.federated.payload import Payload, put, take
from limbeck.federated.privacy import Privacy
from limbeck.federated.rounds import Clients, Round
from limbeck.methods.federated._shared import averaged, federate, judged_shared, released, train_locally

CARD = Card(
    key="fedprox",
    title="Federated Optimization in Heterogeneous Networks",
    authors="Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith",
    year=2020,
    url="https://arxiv.org/abs/1812.06127",
    repo="https://github.com/litian96/FedProx",
    family="federated",
    summary="Federated averaging whose clients stay near the shared weights and may send unfinished work.",
    modality="federated",
    teacher="none",
    signal="weights",
    notes="Weights travel, and weights can tell what is in the data: not private by itself; `privacy` is an option. "
    "The proximal term is on parameters; batch norm's running statistics are averaged like weights. Replies are "
    "averaged by numbers of rows, as in the released code; the paper draws clients with such probabilities and "
    "averages evenly.",
)


class FedProx(Method):
    """Proximal local training, with partial work; with ``mu=0`` and no stragglers it is FedAvg."""

    student: nn.Module
    clients: Clients | None = None
    _: KW_ONLY
    mu: NonNegative = 0.1
    """Weight of the proximal term; the paper tunes it over 0.001, 0.01, 0.1 and 1."""
    stragglers: Fraction = 0.0
    """Share of the clients that manage only 1 to ``epochs`` epochs in a round."""
    population: Count = 20
    """K, how many clients share the training set."""
    split: str = "dirichlet-0.1"
    """How it is shared out: iid, dirichlet-ALPHA, shards-N, rotation-G or contrast-G."""
    participation: Fraction = 0.2
    """Share of the clients that a round asks; at least one."""
    epochs: Count = 5
    """E, passes over a client's rows in a round."""
    batch: Count = 16
    """Rows a step at a client."""
    lr: Positive = 0.05
    """The clients' learning rate."""
    momentum: Fraction = 0.0
    """Of the clients' SGD; it begins anew in every round."""
    privacy: Literal["none", "server", "client", "local"] = "none"
    """Who clips the clients' updates and adds noise: the server does both, clients clip, or clients do both."""
    clipping_norm: Positive = 1.0
    """Largest norm of a client's update in a round, under privacy."""
    noise_multiplier: NonNegative = 1.0
    """Standard deviation of the noise, under privacy, in units of the clipping norm; 0 is not private."""
    delta: Positive = 1e-5
    """Of the (epsilon, delta) that is accounted for; far below 1 / population."""

    def __post_init__(self) -> None:
        Privacy.of(self)  # refuses what it cannot cover

    def broadcast(self, client: int) -> Payload:
        return take(self.student, "student")

    def local(self, client: Client, got: Payload) -> Payload:
        put(self.student, got, "student")
        learnt = [p for p in self.student.parameters() if p.requires_grad]
        sent = [p.detach().clone() for p in learnt]  # w^t
        late = bool(torch.rand(()) < self.stragglers)
        epochs = int(torch.randint(1, self.epochs + 1, ())) if late else self.epochs

        def loss(x: Tensor, y: Tensor) -> Tensor:
            apart = sum((p - q).square().sum() for p, q in zip(learnt, sent, strict=True))
            return F.cross_entropy(self.student(x), y) + self.mu / 2 * apart

        mean = train_locally(
            self.student, client, loss, epochs=epochs, batch=self.batch, lr=self.lr, momentum=self.momentum
        )
        return released(self, got, {**take(self.student, "student"), "loss": mean})

    def judge(self, client: Client, got: Payload) -> Payload:
        return judged_shared(self, client, got)

    def updates(self, batch: Round, clock: Clock) -> Generator[Update, bool, None]:
        yield Update({}, logs=averaged(self, batch))

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        return federate(cls, setting, values)
