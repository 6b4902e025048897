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
from typing import Any, Literal

from torch import nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Setting, Update
from limbeck.federated.client import Client
from limbeck.federated.payload import Payload, take
from limbeck.federated.privacy import Privacy
from limbeck.federated.rounds import Clients, Round
from limbeck.methods.federated._shared import averaged, federate, judged_shared, learnt, released

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
    notes="Weights travel, and weights can tell what is in the data: not private by itself; `privacy` is an option. "
    "Batch norm's running statistics are averaged like weights.",
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
        return released(self, got, learnt(self, client, got))

    def judge(self, client: Client, got: Payload) -> Payload:
        return judged_shared(self, client, got)

    def updates(self, batch: Round, clock: Clock) -> Generator[Update, bool, None]:
        yield Update({}, logs=averaged(self, batch))

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        return federate(cls, setting, values)
