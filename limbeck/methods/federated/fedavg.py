"""Communication-Efficient Learning of Deep Networks from Decentralized Data.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas, AISTATS 2017. https://arxiv.org/abs/1602.05629

In a round t the server sends w_t to a share C of the K clients. Client k takes E epochs of SGD in batches of B,

    w <- w - eta grad l(w; b),

and sends w^k_{t+1} back. The server averages by numbers of rows:

    w_{t+1} = sum_k (n_k / n) w^k_{t+1}        over the clients that answered, n = sum_k n_k.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any

from torch import nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, Positive, Setting, Update
from limbeck.federated.client import Client
from limbeck.federated.payload import Payload, put, shapes, take
from limbeck.federated.rounds import Clients, Round
from limbeck.methods.federated._shared import (
    exchange,
    federate,
    judged_shared,
    learnt,
    weighted_mean,
)

CARD = Card(
    key="fedavg",
    title="Communication-Efficient Learning of Deep Networks from Decentralized Data",
    authors="McMahan, Moore, Ramage, Hampson, Aguera y Arcas",
    year=2017,
    url="https://arxiv.org/abs/1602.05629",
    family="federated",
    summary="Clients train the shared model on their own data and send its weights; the server averages them.",
    modality="federated",
    teacher="none",
    signal="weights",
    notes="Weights travel, and weights can tell what is in the data: not private by itself. Batch norm's running "
    "statistics are averaged like weights.",
)


class FedAvg(Method):
    """Federated averaging; FedSGD is ``epochs=1`` with a batch as large as a client's data."""

    student: nn.Module
    clients: Clients | None = None
    _: KW_ONLY
    population: Count = 20
    """K, how many clients share the training set."""
    split: str = "dirichlet-0.1"
    """How it is shared out: iid, dirichlet-ALPHA, shards-N, rotation-G or contrast-G."""
    participation: Fraction = 0.2
    """C, the share of the clients that a round asks; at least one."""
    epochs: Count = 2
    """E, passes over a client's rows in a round."""
    batch: Count = 16
    """B, rows a step at a client."""
    lr: Positive = 0.05
    """eta, the clients' learning rate."""
    momentum: Fraction = 0.0
    """Of the clients' SGD; it begins anew in every round."""

    def broadcast(self, client: int) -> Payload:
        return take(self.student, "student")

    def local(self, client: Client, got: Payload) -> Payload:
        return learnt(self, client, got)

    def judge(self, client: Client, got: Payload) -> Payload:
        return judged_shared(self, client, got)

    def updates(self, batch: Round, clock: Clock) -> Generator[Update, bool, None]:
        answers = exchange(self, batch, {**shapes(take(self.student, "student")), "loss": ()})
        if answers.replies:
            put(self.student, weighted_mean(answers.replies, "student"), "student")
        yield Update({}, logs=answers.logs)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        return federate(cls, setting, values)
