"""Data-Free Knowledge Distillation for Heterogeneous Federated Learning (FedGen).

Zhu, Hong, Zhou, ICML 2021. https://arxiv.org/abs/2105.10056

Besides averaging the clients' models, the server trains a small generator G(z, y) of penultimate features until the
clients' heads h_k classify them as y, and diverse (z ~ U[0, 1)^d, labels uniform over the round's classes):

    min_G  E_{y,z} [ sum_k w_k^y CE(h_k(G(z, y)), y) ] - b KL( sigma(sum_k w_k^y h_k) || sigma(h) ) + eta L_div,
    w_k^y = n_k^y / sum_j n_j^y,     L_div = exp( - mean_{ij} |G_i - G_j| (z_i - z_j)^2 ).

From the second round on, a client that was sent G learns from features of classes that it may have no rows of, and its
predictions are held near those for features of its own classes:

    CE(f(x), y) + (B_g / B) a_t CE(h(G(z, y^)), y^) + b_t KL( sg sigma(h(G(z, y))) || sigma(f(x)) ),

where a_t = max(a 0.98^t, 1e-4), b_t likewise, and y^ is uniform over the classes that G was trained on.
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
from limbeck.core.modules import Taps
from limbeck.federated.client import Client
from limbeck.federated.payload import Payload, put, shapes, take
from limbeck.federated.rounds import Clients, Round
from limbeck.losses.divergence import kl, soft_log
from limbeck.methods.federated._shared import (
    class_counts,
    class_shares,
    diversity,
    exchange,
    federate,
    judged_shared,
    models_of,
    train_locally,
    weighted_mean,
)
from limbeck.models.classifier import Classifier

CARD = Card(
    key="fedgen",
    title="Data-Free Knowledge Distillation for Heterogeneous Federated Learning",
    authors="Zhu, Hong, Zhou",
    year=2021,
    url="https://arxiv.org/abs/2105.10056",
    repo="https://github.com/zhuangdizhu/FedGen",
    family="federated",
    summary="A generator of features that all clients' heads agree on tells clients of classes they have few rows of.",
    modality="federated",
    teacher="ensemble",
    signal="labels",
    loop="alternating",
    notes="Weights, a generator and every client's numbers of rows by class travel: not private by itself. The default "
    "equations are the released code's; ensemble='mean_logits' is the paper's generator objective, the cross-entropy "
    "of "
    "averaged logits. Counts are of a client's rows, where the code counts what its batches held. KL divergences are "
    "means over rows, where the code's server also divides by the classes. Batch norm's running statistics are "
    "averaged like weights; generated features enter behind them, at the head.",
)


class _Features(nn.Module):
    """z and one-hot y to a feature: two linear layers with batch norm and ReLU between."""

    def __init__(self, noise: int, classes: int, hidden: int, width: int) -> None:
        super().__init__()
        self.noise, self.classes = noise, classes
        self.net = nn.Sequential(
            nn.Linear(noise + classes, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width)
        )

    def draw(self, y: Tensor) -> Tensor:
        """z, (B, noise)."""
        return torch.rand(len(y), self.noise, device=y.device)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.net(torch.cat([z, F.one_hot(y, self.classes).to(z.dtype)], 1))


class FedGen(Method):
    """Federated averaging whose clients are taught by a generator of features."""

    student: Classifier
    clients: Clients | None = None
    _: KW_ONLY
    alpha: NonNegative = 10.0
    """a, the weight of generated features in a client's loss."""
    beta: NonNegative = 10.0
    """b, the weight of the latent consistency with its own classes; the released code has 10 or 1, the paper 0."""
    decay: Fraction = 0.98
    """Of both weights, a round."""
    ensemble: Literal["class_shares", "mean_logits"] = "class_shares"
    """What the generator is to please: every head by its share of the class, or the mean of the heads' logits."""
    adversary: NonNegative = 0.0
    """b of the server: how much the generator seeks features on which shared head and ensemble differ."""
    diversity: NonNegative = 1.0
    """eta, the weight of the diversity loss."""
    steps: Count = 50
    """Generator steps a round."""
    generated: Count = 32
    """B_g, generated features a step, at server and clients."""
    noise: Count = 32
    """d, dimensions of z."""
    hidden: Count = 256
    """Width of the generator."""
    population: Count = 20
    """How many clients share the training set."""
    split: str = "dirichlet-0.1"
    """How it is shared out: iid, dirichlet-ALPHA, shards-N, rotation-G or contrast-G."""
    participation: Fraction = 0.2
    """Share of the clients that a round asks; at least one."""
    epochs: Count = 2
    """Passes over a client's rows in a round; the released code takes 20 batches."""
    batch: Count = 16
    """B, rows a step at a client; the released code's 32."""
    lr: Positive = 0.01
    """The clients' learning rate; a larger one diverges unless ``alpha`` and ``beta`` are smaller."""
    momentum: Fraction = 0.0
    """Of the clients' SGD; it begins anew in every round."""

    def __post_init__(self) -> None:
        [(width,)] = Taps(f"{self.student.head}:in").shapes(self.student, self.student.example)
        self.generator = _Features(self.noise, self.student.num_classes, self.hidden, width)
        self.register_buffer("available", torch.zeros(self.student.num_classes))  # 1: the generator was trained on it

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"generator": list(self.generator.parameters())}

    def broadcast(self, client: int) -> Payload:
        return {
            **take(self.student, "student"), **take(self.generator, "generator"), "available": self.available.cpu()
        }  # fmt: skip

    def local(self, client: Client, got: Payload) -> Payload:
        put(self.student, got, "student")
        put(self.generator, got, "generator")
        self.generator.eval()
        available, head = got["available"], self.student.get_submodule(self.student.head)
        classes = available.nonzero()[:, 0]
        a, b = (max(weight * self.decay**client.round, 1e-4) if weight else 0.0 for weight in (self.alpha, self.beta))

        def features(y: Tensor) -> Tensor:
            with torch.no_grad():
                return self.generator(self.generator.draw(y), y)

        def loss(x: Tensor, y: Tensor) -> Tensor:
            logits = self.student(x)
            total = F.cross_entropy(logits, y)
            if not len(classes):  # there is no generator before the first round
                return total
            drawn = classes[torch.randint(len(classes), (self.generated,))]
            total = total + self.generated / self.batch * a * F.cross_entropy(head(features(drawn)), drawn)
            wanted = soft_log(head(features(y))).detach()
            return total + b * (available[y] * kl(wanted, soft_log(logits))).mean()

        mean = train_locally(
            self.student, client, loss, epochs=self.epochs, batch=self.batch, lr=self.lr, momentum=self.momentum
        )
        return {**take(self.student, "student"), "counts": class_counts(client), "loss": mean}

    def judge(self, client: Client, got: Payload) -> Payload:
        return judged_shared(self, client, got)

    def objective(self, heads: list[nn.Module], shares: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What the generator minimises; ``shares`` (M, K) are w."""
        z = self.generator.draw(y)
        feature = self.generator(z, y)
        logits = torch.stack([head(feature) for head in heads])  # (M, B, K)
        w = shares[:, y]
        together = logits.mean(0) if self.ensemble == "mean_logits" else (w[..., None] * logits).sum(0)
        if self.ensemble == "mean_logits":
            pleased = F.cross_entropy(together, y)
        else:
            each = F.cross_entropy(logits.flatten(0, 1), y.repeat(len(heads)), reduction="none").view_as(w)
            pleased = (w * each).sum(0).mean()
        terms = {"heads": pleased, "diversity": self.diversity * diversity(feature, z)}
        if self.adversary:
            shared = self.student.get_submodule(self.student.head)(feature)
            terms["adversary"] = -self.adversary * kl(soft_log(together), soft_log(shared)).mean()
        return terms

    def updates(self, batch: Round, clock: Clock) -> Generator[Update, bool, None]:
        like = {**shapes(take(self.student, "student")), "counts": (self.student.num_classes,), "loss": ()}
        answers = exchange(self, batch, like)
        yield Update({}, "generator", logs=answers.logs)
        if not answers.replies:
            return
        put(self.student, weighted_mean(answers.replies, "student"), "student")
        heads = [model.get_submodule(model.head) for model in models_of(self.student, answers.replies)]
        counts = torch.stack([reply.payload["counts"] for reply in answers.replies]).to(self.available.device)
        shares, classes = class_shares(counts), (counts.amax(0) > 1).nonzero()[:, 0]
        if not len(classes):
            return
        self.available[classes] = 1.0
        for _ in range(self.steps):
            y = classes[torch.randint(len(classes), (self.generated,), device=classes.device)]
            yield Update(self.objective(heads, shares, y), "generator")

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        return federate(cls, setting, values)
