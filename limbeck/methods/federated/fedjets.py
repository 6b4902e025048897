"""FedJETs: Efficient Just-In-Time Personalization with Federated Mixture of Experts (Dun et al., 2023).
https://arxiv.org/abs/2306.08586

M experts f_j, and a gate on the features h_c of a frozen common expert,

    g(x) = sigma(W h_c(x)),        K_i = top-K_j mean_{x in D_i} g_j(x):        client i downloads its K experts and
    the gate,

trains them together on

    CE(yhat, y),     yhat = sum_{j in K_i} w_j(x) f_j(x),     w_j(x) = g_j(x) / sum_{l in K_i} g_l(x),

with - beta log g_a(x) for those rows of an anchor that its expert a is for,

and the server averages every expert over the clients that trained it, and the gate over all of them. An expert that
nobody trained stays as it is. Anchors break the symmetry: some clients always have the expert of their classes among
theirs. A new client needs no label and no training: the gate chooses experts by its images.
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
from limbeck.core.modules import Taps, eval_mode
from limbeck.errors import InputError
from limbeck.federated.client import Client
from limbeck.federated.payload import Payload, part, put, shapes, take
from limbeck.federated.rounds import Answers, Clients, Round
from limbeck.methods.federated._shared import Loss, class_counts, federate, judged, train_locally, weighted_mean
from limbeck.models.classifier import Classifier

CARD = Card(
    key="fedjets",
    title="FedJETs: Efficient Just-In-Time Personalization with Federated Mixture of Experts",
    authors="Chen Dun, Mirian Hipolito Garcia, Guoqing Zheng, Ahmed Hassan Awadallah, Robert Sim, Anastasios "
    "Kyrillidis, Dimitrios Dimitriadis",
    year=2023,
    url="https://arxiv.org/abs/2306.08586",
    family="federated",
    summary="Experts for kinds of clients, and a gate that gives a new client its experts without labels or training.",
    modality="federated",
    teacher="previous",
    signal="features",
    makes="a mixture of experts",
    fidelity="reconstruction",
    notes="Weights of experts, gate and common expert travel, and a client's mean gate: not private by itself. "
    "Assumed: "
    "the common expert is made by federated averaging in the first rounds, and every expert begins as its copy; "
    "outputs are mixed as logits; the gate is one linear layer on the last features; an anchor's expert is that of the "
    "group of classes (class c is in group c mod M) most of its rows are of; anchors teach the gate where these "
    "belong. "
    "The student that comes out chooses K experts for every image. Batch norm's running statistics are averaged like "
    "weights; the common expert's stay.",
)


class Mixture(nn.Module):
    """A common expert that a gate reads, and experts.

    Args:
        common: its copies are the experts.
        experts: M.
        best: K, how many answer.
    """

    def __init__(self, common: Classifier, experts: int, best: int) -> None:
        super().__init__()
        [(width,)] = Taps(f"{common.head}:in").shapes(common, common.example)
        self.common, self.best, self.classes, self.shape = common, best, common.classes, common.shape
        self.experts = nn.ModuleList(copy.deepcopy(common) for _ in range(experts))
        self.gate = nn.Linear(width, experts).to(common.mean.device)

    def scores(self, x: Tensor) -> Tensor:
        """W h_c(x), (B, M); the common expert is constant."""
        with torch.no_grad(), eval_mode(self.common):
            _, [feature] = Taps(f"{self.common.head}:in")(self.common, x)
        return self.gate(feature)

    def forward(self, x: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Logits, (B, classes).

        Args:
            chosen: (K,) int64, the experts that answer; without them the K best of every image.
        """
        scores = self.scores(x)
        if chosen is None:
            kept = torch.zeros_like(scores, dtype=torch.bool).scatter(1, scores.topk(self.best).indices, True)
            scores, experts = scores.masked_fill(~kept, -torch.inf), list(self.experts)
        else:
            scores, experts = scores[:, chosen], [self.experts[int(j)] for j in chosen]
        answers = torch.stack([expert(x) for expert in experts], 1)
        return (scores.softmax(1)[..., None] * answers).sum(1)


class FedJETs(Method):
    """The mixture; clients train K of its experts."""

    student: nn.Module  # one network; the mixture is made of its copies
    clients: Clients | None = None
    _: KW_ONLY
    experts: Count = 5
    """M."""
    best: Count = 2
    """K, experts that a client trains and that answer; at most M."""
    common: Fraction = 0.3
    """Share of the rounds, the first ones, in which clients train and average the common expert alone."""
    anchors: Fraction = 0.3
    """Share of the clients that always have the expert of their classes among theirs."""
    beta: NonNegative = 1.0
    """Weight of what the gate learns from anchors: where their expert's rows belong."""
    population: Count = 20
    """How many clients share the training set."""
    split: str = "shards-2"
    """How it is shared out: iid, dirichlet-ALPHA, shards-N, rotation-G or contrast-G."""
    participation: Fraction = 0.2
    """Share of the clients that a round asks; at least one."""
    epochs: Count = 2
    """Passes over a client's rows in a round."""
    batch: Count = 16
    """Rows a step at a client."""
    lr: Positive = 0.05
    """The clients' learning rate."""
    momentum: Fraction = 0.0
    """Of the clients' SGD; it begins anew in every round."""

    def __post_init__(self) -> None:
        if self.best > self.experts:
            raise InputError("best", self.best, f"experts cannot be chosen of {self.experts}")
        if isinstance(self.student, Classifier):
            self.student = Mixture(self.student, self.experts, self.best)

    def broadcast(self, client: int) -> Payload:
        """Everything, for :meth:`judge`; in a round a client is sent its experts alone."""
        return take(self.student, "student")

    def local(self, client: Client, got: Payload) -> Payload:
        mixture: Any = self.student
        put(mixture.common, got, "common")
        if "chosen" in got:
            return self.learn(client, got)
        if part(got, "gate"):
            put(mixture.gate, got, "gate")
            return {"gated": self.gated(client), "anchor": self.group(client)}
        mean = self.train_on(client, lambda x, y: F.cross_entropy(mixture.common(x), y))
        return {**take(mixture.common, "common"), "loss": mean}

    def gated(self, client: Client) -> Tensor:
        """mean_x g(x) of a client's images, (M,)."""
        mixture: Any = self.student
        with torch.no_grad():
            return mixture.scores(client.train.take(torch.arange(len(client.train)))[0]).softmax(1).mean(0)

    def group(self, client: Client) -> Tensor:
        """The group of classes that most rows are of, a scalar."""
        counts = class_counts(client)
        groups = torch.zeros(self.experts).index_add(0, torch.arange(len(counts)) % self.experts, counts)
        return groups.argmax()

    def is_anchor(self, client: int) -> bool:
        return client < round(self.anchors * self.population)

    def choice(self, client: int, gated: Tensor, anchor: Tensor) -> Tensor:
        """K_i, (K,), in ascending order."""
        if self.is_anchor(client):
            gated = gated.index_fill(0, anchor.reshape(1), 2.0)  # above every mean of probabilities
        return gated.topk(self.best).indices.sort().values

    def learn(self, client: Client, got: Payload) -> Payload:
        """Train the gate and the chosen experts, which are numbered 0 to K - 1 on their way."""
        mixture: Any = self.student
        chosen = got["chosen"]
        put(mixture.gate, got, "gate")
        for slot, j in enumerate(chosen.tolist()):
            put(mixture.experts[j], got, f"expert{slot}")

        def loss(x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(mixture(x, chosen), y) + self.routing(client, x, y)

        mean = self.train_on(client, loss)
        sent = {**take(mixture.gate, "gate"), "loss": mean}
        for slot, j in enumerate(chosen.tolist()):
            sent |= take(mixture.experts[j], f"expert{slot}")
        return sent

    def routing(self, client: Client, x: Tensor, y: Tensor) -> Tensor:
        """- beta log g_a(x) over an anchor's rows of its expert's group, the mean of all rows; else 0."""
        mixture: Any = self.student
        if not self.beta or not self.is_anchor(client.number):
            return torch.zeros((), device=x.device)
        group = self.group(client).to(y.device)
        told = F.cross_entropy(mixture.scores(x), group.expand(len(y)), reduction="none")
        return self.beta * (told * (y % self.experts == group)).mean()

    def train_on(self, client: Client, loss: Loss) -> Tensor:
        sgd = {"batch": self.batch, "lr": self.lr, "momentum": self.momentum}
        return train_locally(self.student, client, loss, epochs=self.epochs, **sgd)

    def judge(self, client: Client, got: Payload) -> Payload:
        """As a newcomer would: experts by the mean gate of its images, no label and no training."""
        mixture: Any = self.student
        put(mixture, got, "student")
        chosen = self.gated(client).topk(self.best).indices
        with eval_mode(mixture):
            return judged(lambda x: mixture(x, chosen), client)

    def updates(self, batch: Round, clock: Clock) -> Generator[Update, bool, None]:
        answers = self.averaging(batch) if clock.fraction < self.common else self.mixing_round(batch)
        yield Update({}, logs=answers.logs)

    def averaging(self, batch: Round) -> Answers:
        """A round of the common expert; the experts are its copies."""
        assert self.clients is not None
        mixture: Any = self.student
        sent = take(mixture.common, "common")
        answers = self.clients.ask(dict.fromkeys(batch.clients, sent), batch.number, like={**shapes(sent), "loss": ()})
        if answers.replies:
            mean = weighted_mean(answers.replies, "common")
            for model in (mixture.common, *mixture.experts):
                put(model, mean, "common")
            answers.logs["loss"] = weighted_mean(answers.replies, "loss")["loss"]
        return answers

    def mixing_round(self, batch: Round) -> Answers:
        """The gate on every client's images, its experts to every client, and the mean of what comes back."""
        assert self.clients is not None
        mixture: Any = self.student
        sent = {**take(mixture.common, "common"), **take(mixture.gate, "gate")}
        asked = self.clients.ask(
            dict.fromkeys(batch.clients, sent), batch.number, like={"gated": (self.experts,), "anchor": ()}
        )
        chosen = {k: self.choice(k, told["gated"], told["anchor"]) for k, told, _ in asked.replies}
        held = [take(expert, "expert") for expert in mixture.experts]
        given = dict[int, Payload]()
        for k, own in chosen.items():
            experts = {f"expert{s}/{n}": v for s, j in enumerate(own) for n, v in part(held[int(j)], "expert").items()}
            given[k] = {**sent, **experts, "chosen": own}
        like = dict[str, tuple[int, ...]]()
        if given:
            some = next(iter(given.values()))
            like = {n: s for n, s in shapes({**some, "loss": torch.zeros(())}).items() if n != "chosen"}
            like = {n: s for n, s in like.items() if not n.startswith("common/")}
        answers = self.clients.ask(given, batch.number, like=like)
        for name in ("bytes_down", "bytes_up"):
            answers.logs[name] = answers.logs[name] + asked.logs[name]
        if answers.replies:
            put(mixture.gate, weighted_mean(answers.replies, "gate", [1.0] * len(answers.replies)), "gate")
            for j, expert in enumerate(mixture.experts):
                trained = [
                    reply._replace(payload={f"expert/{n}": v for n, v in part(reply.payload, f"expert{s}").items()})
                    for reply in answers.replies for s, own in enumerate(chosen[reply.client].tolist()) if own == j
                ]  # fmt: skip
                if trained:
                    put(expert, weighted_mean(trained, "expert", [1.0] * len(trained)), "expert")
            answers.logs["loss"] = weighted_mean(answers.replies, "loss")["loss"]
            answers.logs["experts"] = torch.tensor(float(len({int(j) for own in chosen.values() for j in own})))
        return answers

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        return federate(cls, setting, values)
