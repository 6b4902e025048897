"""FedMD: Heterogenous Federated Learning via Model Distillation.

Li, Wang, 2019. https://arxiv.org/abs/1910.03581

Every client has a network of its own, of whatever architecture; only class scores on public images travel.
Transfer learning first: client k trains f_k on the labelled public images D_0, then on its own D_k. Then, in a round,

    communicate:  f_k(x_i) for a subset d of the public images, the same for all
    aggregate:    f~(x_i) = 1/m sum_k f_k(x_i)
    digest:       f_k learns to approach the consensus, min mean_i |f_k(x_i) - f~(x_i)|
    revisit:      f_k trains on D_k for a few epochs.

Scores are logits and the distance is the mean absolute one, as in the released code; the paper names neither.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, Positive, Setting, Update
from limbeck.core.modules import eval_mode
from limbeck.data.images import ImageSet
from limbeck.errors import InputError
from limbeck.federated.client import Client
from limbeck.federated.payload import Payload, put, take
from limbeck.federated.rounds import Clients, Round
from limbeck.methods.federated._shared import exchange, federate_with_public, judged, train_locally

CARD = Card(
    key="fedmd",
    title="FedMD: Heterogenous Federated Learning via Model Distillation",
    authors="Li, Wang",
    year=2019,
    url="https://arxiv.org/abs/1910.03581",
    repo="https://github.com/diogenes0319/FedMD_clean",
    family="federated",
    summary="Clients with networks of their own learn from the mean of all their class scores on public images.",
    modality="federated",
    teacher="ensemble",
    signal="logits",
    notes="Class scores on public images travel, never weights: far fewer bytes, but not private by itself. A run "
    "sets a share of its labelled images aside as public; public images without labels serve as well, without the "
    "transfer learning on them. One message a round: a client digests the last consensus, revisits its own rows and "
    "then scores the next subset, which is the paper's order when all take part. The paper's server has no network; "
    "here its student digests every consensus, so that something comes out that all classes know, while the clients' "
    "networks, batch norm's statistics included, stay with them. Clients learn by SGD; the released code uses Adam.",
)


class FedMD(Method):
    """Personal networks that agree on public images."""

    student: nn.Module
    clients: Clients | None = None
    public: ImageSet | None = None
    models: nn.ModuleList | None = None  # client k has number k modulo their number; the student's without any
    _: KW_ONLY
    alignment: Count = 128
    """Public images whose scores are asked for in a round; all when there are fewer. The paper's 5000."""
    digest_epochs: Annotated[int, Ge(0)] = 1
    """Passes over them towards the consensus, at clients and server; 0 for clients that learn alone."""
    digest_batch: Count = 16
    """Public images a step of that; the released code's 128."""
    digest_lr: Positive = 0.1
    """The clients' learning rate for it, apart because the loss is a mean over the classes' scores."""
    transfer_epochs: Annotated[int, Ge(0)] = 10
    """Passes over the labelled public images when a client first takes part; the paper trains to convergence."""
    share: Fraction = 0.2
    """Share of the run's images that is public; the clients have the rest."""
    population: Count = 10
    """m, how many clients share the training set."""
    split: str = "dirichlet-0.1"
    """How it is shared out: iid, dirichlet-ALPHA, shards-N, rotation-G or contrast-G."""
    participation: Fraction = 1.0
    """Share of the clients that a round asks; at least one."""
    epochs: Count = 2
    """Passes over a client's own rows in a round, the revisit; the released code's 10."""
    batch: Count = 16
    """Rows a step at a client; the released code's 10."""
    lr: Positive = 0.05
    """The clients' learning rate on labels."""
    momentum: Fraction = 0.0
    """Of the clients' SGD; it begins anew in every round."""

    def __post_init__(self) -> None:
        if self.public is None:
            raise InputError("public", None, "images are needed at server and clients alike; give an ImageSet")
        asked, classes = min(self.alignment, len(self.public)), len(self.public.classes)
        self.register_buffer("rows", self.draw())  # of the public images: what the next round asks for
        self.register_buffer("known", torch.full((asked,), -1))  # what the consensus is of; -1: nothing yet
        self.register_buffer("consensus", torch.zeros(asked, classes))

    def draw(self) -> Tensor:
        assert self.public is not None
        return torch.randperm(len(self.public))[: self.alignment]

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters())}

    def network(self, client: Client) -> nn.Module:
        """The client's own; before its first round it has the weights that the method was made with."""
        model = self.student if self.models is None else self.models[client.number % len(self.models)]
        if client.state:
            put(model, client.state, "model")
        return model

    def broadcast(self, client: int) -> Payload:
        return {"rows": self.rows.cpu(), "known": self.known.cpu(), "consensus": self.consensus.cpu()}

    def digesting(self, model: nn.Module, rows: Tensor, consensus: Tensor) -> Generator[Tensor]:
        """|f(x_i) - f~(x_i)|, a batch after the other."""
        assert self.public is not None
        for _ in range(self.digest_epochs):
            for some in torch.randperm(len(rows)).split(self.digest_batch):
                if len(some) > 1 or len(rows) == 1:
                    x = self.public.take(rows[some])[0].to(consensus.device)
                    yield F.l1_loss(model(x), consensus[some.to(consensus.device)])

    def local(self, client: Client, got: Payload) -> Payload:
        assert self.public is not None
        model, public = self.network(client), Client(client.number, self.public)
        sgd = {"batch": self.batch, "lr": self.lr, "momentum": self.momentum}

        def loss(x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(model(x), y)

        if not client.state and self.transfer_epochs and int(self.public.labels.min()) >= 0:
            train_locally(model, public, loss, epochs=self.transfer_epochs, **sgd)
        if int(got["known"].min()) >= 0:
            optimizer = torch.optim.SGD(model.parameters(), self.digest_lr, self.momentum)
            for distance in self.digesting(model, got["known"], got["consensus"]):
                optimizer.zero_grad()
                distance.backward()
                optimizer.step()
        mean = train_locally(model, client, loss, epochs=self.epochs, **sgd)
        client.state = take(model, "model")
        with torch.no_grad(), eval_mode(model):
            return {"scores": model(self.public.take(got["rows"])[0]), "loss": mean}

    def judge(self, client: Client, got: Payload) -> Payload:
        return judged(self.network(client), client)

    def updates(self, batch: Round, clock: Clock) -> Generator[Update, bool, None]:
        answers = exchange(self, batch, {"scores": tuple(self.consensus.shape), "loss": ()})
        yield Update({}, logs=answers.logs)
        if not answers.replies:
            return
        self.consensus.copy_(torch.stack([reply.payload["scores"] for reply in answers.replies]).mean(0))
        self.known.copy_(self.rows)
        self.rows.copy_(self.draw())
        for distance in self.digesting(self.student, self.known.cpu(), self.consensus):
            yield Update({"digest": distance})

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        return federate_with_public(cls, setting, values, labels=True)
