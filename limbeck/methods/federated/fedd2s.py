"""FedD2S: Personalized Data-Free Federated Knowledge Distillation (Atapour et al., 2024).
https://arxiv.org/abs/2402.10846

Clients keep networks of their own; there are no public data, and no weights travel. The server has a head H_d for every
depth d. In a round r, at the depth d(r) = max(1, L - floor(rho r)),

    client k sends, for its rows i, the activations a_{k,i} of its stage d, its scores z_{k,i} and the labels y_i;
    the server trains   H_d:  min sum_{k,i} CE(H_d(a_{k,i}), y_i) + b KL( sigma(z_{k,i} / T) || sigma(H_d(a_{k,i}) /
    T) ) and sends every client the scores h_{k,i} = H_d(a_{k,i}) of its own rows;
    client k trains     f_k:  CE(f_k(x_i), y_i) + lambda KL( sg sigma(h_{k,i} / T) || sigma(f_k(x_i) / T) ),

whose second term moves the layers up to the cut alone. The cut rises from deep to shallow: what is behind it is the
client's own, ever more of it.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping, Sequence
from dataclasses import KW_ONLY, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Setting, Update
from limbeck.core.modules import Taps, eval_mode
from limbeck.federated.client import Client
from limbeck.federated.payload import Payload, put, take
from limbeck.federated.rounds import Clients, Reply, Round
from limbeck.losses.divergence import kl, soft_log
from limbeck.methods.federated._shared import federate, judged, weighted_mean
from limbeck.models.classifier import Classifier

CARD = Card(
    key="fedd2s",
    title="FedD2S: Personalized Data-Free Federated Knowledge Distillation",
    authors="Kawa Atapour, S. Jamal Seyedmohammadi, Jamshid Abouei, Arash Mohammadi, Konstantinos N. Plataniotis",
    year=2024,
    url="https://arxiv.org/abs/2402.10846",
    family="federated",
    summary="Clients and the server's heads teach each other through inner activations, of ever shallower layers.",
    modality="federated",
    teacher="online",
    signal="logits",
    loop="alternating",
    makes="the clients' own networks, side by side",
    fidelity="reconstruction",
    notes="Activations, scores and labels of every private row travel, which tells much of the data: not private by "
    "itself, and the upload grows with the rows. Assumed: the schedule of the cut, the weights lambda = b = 1, T = 1 "
    "and "
    "no factor T^2, that the second term ends at the cut, and the heads, which are two linear layers on an activation "
    "that is averaged to at most 4 x 4. No model is shared: a run gives the clients' networks, which answer with their "
    "mean probability; in a deployment they stay where they are. Batch norm is the clients' own.",
)


class Committee(nn.Module):
    """Networks side by side: logarithms of their mean probability."""

    def __init__(self, models: Sequence[Classifier]) -> None:
        super().__init__()
        self.models, self.classes, self.shape = nn.ModuleList(models), models[0].classes, models[0].shape

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([soft_log(model(x)) for model in self.models]).logsumexp(0)


def head_for(shape: Sequence[int], hidden: int, classes: int) -> nn.Sequential:
    """H_d for activations of a shape (without the batch axis)."""
    pool = nn.AdaptiveAvgPool2d(min(4, *shape[1:])) if len(shape) == 3 else nn.Identity()
    width = pool(torch.zeros(1, *shape)).numel()
    return nn.Sequential(pool, nn.Flatten(), nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, classes))


class FedD2S(Method):
    """The server's heads; the networks stay at the clients and begin alike."""

    student: Classifier
    clients: Clients | None = None
    _: KW_ONLY
    dropping: NonNegative = 0.1
    """rho, stages that the cut moves up by in a round; 0 for a cut behind the last one that stays."""
    lam: NonNegative = 1.0
    """lambda, weight of the server's scores at a client; 0 for clients that learn alone."""
    soft: NonNegative = 1.0
    """b, weight of the clients' scores at the server."""
    temperature: Positive = 1.0
    """T of both."""
    hidden: Count = 128
    """Width of a head."""
    head_epochs: Count = 2
    """The server's passes over a round's activations."""
    head_batch: Count = 64
    """Activations a step at the server."""
    population: Count = 20
    """How many clients share the training set."""
    split: str = "dirichlet-0.1"
    """How it is shared out: iid, dirichlet-ALPHA, shards-N, rotation-G or contrast-G."""
    participation: Fraction = 0.2
    """Share of the clients that a round asks; at least one."""
    epochs: Count = 2
    """Passes over a client's rows in a round."""
    batch: Count = 16
    """Rows a step at a client."""
    lr: Positive = 0.05
    """The clients' learning rate; heads have the run's optimiser."""
    momentum: Fraction = 0.0
    """Of the clients' SGD; it begins anew in every round."""

    def __post_init__(self) -> None:
        self.sizes = Taps(*self.student.stages).shapes(self.student, self.student.example)
        self.heads = nn.ModuleList(head_for(size, self.hidden, self.student.num_classes) for size in self.sizes)

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"heads": list(self.heads.parameters())}

    def depth(self, number: int) -> int:
        """d(r), 1 for the first stage."""
        return max(1, len(self.sizes) - int(self.dropping * number))

    def broadcast(self, client: int) -> Payload:
        return {}

    def network(self, client: Client) -> Classifier:
        """The client's own."""
        if client.state:
            put(self.student, client.state, "model")
        return self.student

    def local(self, client: Client, got: Payload) -> Payload:
        model, depth = self.network(client), int(got["depth"])
        return self.learn(client, model, depth, got["scores"]) if "scores" in got else self.tell(client, model, depth)

    @torch.no_grad()
    def tell(self, client: Client, model: Classifier, depth: int) -> Payload:
        """Activations, scores and labels of all rows, in their order."""
        x, y = client.train.take(torch.arange(len(client.train)))
        with eval_mode(model):
            logits, [feature] = Taps(model.stages[depth - 1])(model, x)
        return {"feature": feature, "scores": logits, "labels": y}

    def learn(self, client: Client, model: Classifier, depth: int, scores: Tensor) -> Payload:
        """Epochs with the server's scores (n, K) of the client's own rows."""
        taps, losses = Taps(model.stages[depth - 1]), list[Tensor]()
        optimizer = torch.optim.SGD(model.parameters(), lr=self.lr, momentum=self.momentum)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(client.train)).split(self.batch):
                if len(rows) == 1 < len(client.train):
                    continue  # batch norm cannot train on one row
                x, y = client.train.take(rows)
                logits, [feature] = taps(model, x)
                own = F.cross_entropy(logits, y)
                apart = self.lam * self.apart(scores[rows], logits)
                pull = torch.autograd.grad(apart, feature, retain_graph=True)[0]
                optimizer.zero_grad()
                (own + (pull * feature).sum()).backward()  # the second has the gradient of ``apart`` up to the cut
                optimizer.step()
                losses.append((own + apart).detach())
        client.state = take(model, "model")
        return {"loss": torch.stack(losses).mean() if losses else torch.zeros(())}

    def apart(self, teacher: Tensor, student: Tensor) -> Tensor:
        """KL( sigma(teacher / T) || sigma(student / T) ), the mean over rows."""
        return kl(soft_log(teacher, self.temperature), soft_log(student, self.temperature)).mean()

    def judge(self, client: Client, got: Payload) -> Payload:
        return judged(self.network(client), client)

    def teaching(self, depth: int, replies: Sequence[Reply]) -> Generator[Update, bool, None]:
        """The server's part: H_d learns from what all clients sent."""
        device = next(self.heads.parameters()).device
        told = {n: torch.cat([r.payload[n] for r in replies]).to(device) for n in replies[0].payload}
        for _ in range(self.head_epochs):
            for rows in torch.randperm(len(told["labels"])).to(device).split(self.head_batch):
                logits = self.heads[depth - 1](told["feature"][rows])
                labels = F.cross_entropy(logits, told["labels"][rows])
                yield Update(
                    {"labels": labels, "clients": self.soft * self.apart(told["scores"][rows], logits)}, "heads"
                )

    def updates(self, batch: Round, clock: Clock) -> Generator[Update, bool, None]:
        assert self.clients is not None
        depth, classes = self.depth(batch.number), self.student.num_classes
        cut = {"depth": torch.tensor(depth)}
        like = {"feature": (-1, *self.sizes[depth - 1]), "scores": (-1, classes), "labels": (-1,)}
        told = self.clients.ask(dict.fromkeys(batch.clients, cut), batch.number, like=like)
        yield Update({}, "heads", logs={**told.logs, "depth": torch.tensor(float(depth))})
        if not told.replies:
            return
        yield from self.teaching(depth, told.replies)
        head, back = self.heads[depth - 1], dict[int, Payload]()
        with torch.no_grad():
            for client, payload, _ in told.replies:
                scores = head(payload["feature"].to(next(head.parameters()).device))
                back[client] = {**cut, "scores": scores.cpu()}
        taught = self.clients.ask(back, batch.number, like={"loss": ()})
        logs = {n: told.logs[n] + taught.logs[n] for n in ("bytes_down", "bytes_up")}
        if taught.replies:
            logs["loss"] = weighted_mean(taught.replies, "loss")["loss"]
        yield Update({}, "heads", logs=logs)

    def committee(self) -> Committee:
        """The networks of the clients of this process that have taken part."""
        assert self.clients is not None
        held = self.clients.state_dict()
        models = [copy.deepcopy(self.student) for _ in held]
        for model, state in zip(models, held.values(), strict=True):
            put(model, state, "model")
        return Committee(models or [self.student])

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        made = list[FedD2S]()

        def fit(method: FedD2S, **more: Any) -> None:
            setting.fit(method, **more)
            made.append(method)

        federate(cls, replace(setting, fit=fit), values)
        return made[0].committee()
