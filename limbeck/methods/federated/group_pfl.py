"""Group Personalized Federated Learning (Liu et al., 2022). https://arxiv.org/abs/2210.01863

    theta   = FedAvg(all clients)
    theta_g = FedAvg(clients of group g, from theta)                at a lower rate
    theta_i = a few steps of client i, from theta_g                 + (rho / 2) ||theta' - theta_g||^2

A hierarchy theta_i ~ N(theta_g, s_i), theta_g ~ N(theta, s_g): each level begins where the one above ended, and takes
fewer and smaller steps. Groups are known beforehand: a domain, a language, a kind of device. The first share of the
rounds serves all clients; after it every group has a model of its own, and a client of group k mod G adds to its
group's alone. A client fine-tunes its group's model when it is judged, or used.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Setting, Update
from limbeck.federated.client import Client
from limbeck.federated.payload import Payload, put, shapes, take
from limbeck.federated.rounds import Clients, Round
from limbeck.methods.federated._shared import exchange, federate, judged, train_locally, weighted_mean

CARD = Card(
    key="group_pfl",
    title="Group Personalized Federated Learning",
    authors="Zhe Liu, Yue Hui, Fuchun Peng",
    year=2022,
    url="https://arxiv.org/abs/2210.01863",
    family="federated",
    summary="One model for all, then one a group of like clients, then each client's own: every level begins above.",
    modality="federated",
    teacher="none",
    signal="weights",
    fidelity="reconstruction",
    notes="Nothing is distilled; weights travel, which is not private by itself. Client k is of group k mod groups: "
    "number clients so. Assumed, as the paper's are not published: a tenth of the rate a level, two thirds of the "
    "rounds for all, two epochs of fine-tuning, and the pull rho to the group's model (off). What comes out is the "
    "shared model; `group` has the others.",
)


class GroupPFL(Method):
    """The shared model and one a group."""

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
    """The clients' learning rate in the rounds for all."""
    groups: Count = 2
    """G; client k is of group k mod G."""
    shared: Fraction = 0.67
    """The share of the rounds that serve all clients."""
    fall: Fraction = 0.1
    """What the learning rate is multiplied by, a level."""
    finetune: Count = 2
    """Epochs of a client's own."""
    rho: NonNegative = 0.0
    """Pull of the fine-tuning towards the group's model."""

    def __post_init__(self) -> None:
        self.group = nn.ModuleList(copy.deepcopy(self.student) for _ in range(self.groups))
        self.register_buffer("level", torch.tensor(0))

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Nobody: clients have optimisers of their own."""
        return {"student": list(self.student.parameters())}

    def model_of(self, client: int) -> nn.Module:
        """Whose weights the client is sent now."""
        return self.student if int(self.level) == 0 else self.group[client % self.groups]

    def broadcast(self, client: int) -> Payload:
        return {**take(self.model_of(client), "student"), "level": self.level.clone()}

    def local(self, client: Client, got: Payload) -> Payload:
        put(self.student, got, "student")
        loss = self.descend(client, self.epochs, self.lr * self.fall ** int(got["level"]))
        return {**take(self.student, "student"), "loss": loss}

    def descend(self, client: Client, epochs: int, lr: float, rho: float = 0.0) -> Tensor:
        """SGD from where the working copy is, with a pull back to there."""
        start = [p.detach().clone() for p in self.student.train().parameters()]

        def loss(x: Tensor, y: Tensor) -> Tensor:
            gap = [(p - s).square().sum() for p, s in zip(self.student.parameters(), start, strict=True)]
            return F.cross_entropy(self.student(x), y) + 0.5 * rho * torch.stack(gap).sum()

        return train_locally(self.student, client, loss, epochs=epochs, batch=self.batch, lr=lr)

    def judge(self, client: Client, got: Payload) -> Payload:
        put(self.student, got, "student")
        self.descend(client, self.finetune, self.lr * self.fall ** (int(got["level"]) + 1), self.rho)
        return judged(self.student, client)

    def updates(self, batch: Round, clock: Clock) -> Generator[Update, bool, None]:
        if int(self.level) == 0 and clock.fraction >= self.shared:
            for own in self.group:
                own.load_state_dict(self.student.state_dict())
            self.level.fill_(1)
        answers = exchange(self, batch, {**shapes(take(self.student, "student")), "loss": ()})
        for g in range(self.groups):
            ours = [r for r in answers.replies if int(self.level) == 0 or r.client % self.groups == g]
            if ours:
                put(self.model_of(g), weighted_mean(ours, "student"), "student")
        yield Update({}, logs=answers.logs)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        return federate(cls, setting, values)
