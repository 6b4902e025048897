"""Ensemble Distillation for Robust Model Fusion in Federated Learning (FedDF).

Lin, Kong, Stich, Jaggi, NeurIPS 2020. https://arxiv.org/abs/2006.07242

A round of FedAvg gives clients' models x^k_t, and their mean by numbers of rows is where the server begins. It then
distils the ensemble of the clients' models into it, on unlabelled public images d, for N steps:

    x_{t,j} = x_{t,j-1} - eta grad KL( sigma( 1/|S_t| sum_k f(x^k_t, d) ), sigma( f(x_{t,j-1}, d) ) ).

The ensemble averages logits, every client alike; sigma is the softmax, without temperature.

Clients may be of groups p with an architecture each (the paper's Algorithm 3). A group's mean is over its own clients;
then every group's model x^p is distilled from one and the same ensemble, of the models of all clients of all groups.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, Positive, Setting, Update
from limbeck.data.images import ImageSet
from limbeck.errors import InputError
from limbeck.federated.client import Client
from limbeck.federated.payload import Payload, put, shapes, take
from limbeck.federated.rounds import Clients, Round
from limbeck.losses.divergence import kl, soft_log
from limbeck.methods.federated._shared import (
    exchange,
    federate_with_public,
    images_of,
    judged,
    learnt,
    models_of,
    weighted_mean,
)
from limbeck.models.load import load_classifier

CARD = Card(
    key="feddf",
    title="Ensemble Distillation for Robust Model Fusion in Federated Learning",
    authors="Lin, Kong, Stich, Jaggi",
    year=2020,
    url="https://arxiv.org/abs/2006.07242",
    repo="https://github.com/epfml/federated-learning-public-code",
    family="federated",
    summary="The server averages the clients' models and distils their ensemble into the average, on public images.",
    modality="federated",
    teacher="ensemble",
    signal="logits",
    notes="Weights travel, and weights can tell what is in the data: not private by itself. The public images need no "
    "labels and stay at the server; a run sets a share of its images aside for that. With several architectures a "
    "run keeps and judges the student, the first group's; the others are there from Python. A group nobody of which "
    "answers is distilled from where it was. The number of server steps is fixed; the paper stops early on a "
    "validation set. The run's optimiser takes the server's steps and goes on from round to round; the paper begins "
    "Adam and a cosine anew. Batch norm's running statistics are averaged like weights; then, as in the released "
    "code, the server's student distils in train mode, so that they move on to those of the public images.",
)


class FedDF(Method):
    """Federated averaging, then ensemble distillation at the server."""

    student: nn.Module
    clients: Clients | None = None
    public: ImageSet | None = None
    others: nn.ModuleList | None = None  # the further groups' models; client k is of group k modulo their number
    _: KW_ONLY
    architectures: str = ""
    """Of further groups of clients, such as convnet-16x2,mlp-64; the student is the first group's."""
    steps: Count = 50
    """N, the server's distillation steps a round; the paper takes up to 10 000."""
    public_batch: Count = 64
    """Public images a distillation step; the paper's 128."""
    share: Fraction = 0.2
    """Share of the run's images that is public and loses its labels; the clients have the rest."""
    population: Count = 20
    """How many clients share the training set."""
    split: str = "dirichlet-0.1"
    """How it is shared out: iid, dirichlet-ALPHA, shards-N, rotation-G or contrast-G."""
    participation: Fraction = 0.2
    """C, the share of the clients that a round asks; at least one."""
    epochs: Count = 5
    """Passes over a client's rows in a round; the paper's 20 to 80."""
    batch: Count = 16
    """Rows a step at a client."""
    lr: Positive = 0.05
    """The clients' learning rate."""
    momentum: Fraction = 0.0
    """Of the clients' SGD; it begins anew in every round."""

    def __post_init__(self) -> None:
        if self.others is not None:
            self.others.to(next(self.student.parameters()).device)

    @property
    def groups(self) -> list[nn.Module]:
        """x^p, the model of every group."""
        return [self.student, *(self.others or [])]

    def model_of(self, client: int) -> nn.Module:
        """Of the client's group."""
        return self.groups[client % len(self.groups)]

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {
            "student" + f"_{p}" * (p > 1): [w for w in model.parameters() if w.requires_grad]
            for p, model in enumerate(self.groups, 1)
        }

    def broadcast(self, client: int) -> Payload:
        return take(self.model_of(client), "student")

    def local(self, client: Client, got: Payload) -> Payload:
        return learnt(self, client, got, self.model_of(client.number))

    def judge(self, client: Client, got: Payload) -> Payload:
        model = self.model_of(client.number)
        put(model, got, "student")
        return judged(model, client)

    def updates(self, batch: Round, clock: Clock) -> Generator[Update, bool, None]:
        if self.public is None:
            raise InputError("public", None, "images are needed at the server; give an ImageSet, labels may be -1")
        like = [{**shapes(self.broadcast(p)), "loss": ()} for p in range(len(self.groups))]
        answers = exchange(self, batch, lambda k: like[k % len(like)])
        yield Update({}, logs=answers.logs)
        if not answers.replies:
            return
        teachers = list[nn.Module]()
        for p, model in enumerate(self.groups):
            if own := [reply for reply in answers.replies if reply.client % len(self.groups) == p]:
                put(model, weighted_mean(own, "student"), "student")
                teachers += models_of(model, own)
        device = next(self.student.parameters()).device
        for player, model in zip(self.players(), self.groups, strict=True):
            term = player.replace("student", "distillation")
            for _ in range(self.steps):
                d = self.public.take(torch.randint(len(self.public), (self.public_batch,)))[0].to(device)
                with torch.no_grad():
                    ensemble = torch.stack([teacher(d) for teacher in teachers]).mean(0)
                yield Update({term: kl(soft_log(ensemble), soft_log(model(d))).mean()}, player)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        images, seed = images_of(setting)
        names = [name.strip() for name in values.get("architectures", "").split(",") if name.strip()]
        others = [load_classifier(n, shape=images.shape, classes=images.classes, seed=seed) for n in names]
        given = {"others": nn.ModuleList(others)} if others else None
        return federate_with_public(cls, setting, values, labels=False, given=given)
