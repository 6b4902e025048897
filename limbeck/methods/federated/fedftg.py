"""Fine-tuning Global Model via Data-Free Knowledge Distillation for Non-IID Federated Learning (FedFTG).

Zhang, Shen, Ding, Tao, Duan, CVPR 2022. https://arxiv.org/abs/2203.09249

A round of FedAvg gives local models w_k and their mean w. The server then fine-tunes w on images x = G(z, y) that no
client ever had, z ~ N(0, I), with labels as frequent as they are with the round's clients S_t:

    alpha^{k,y} = n_k^y / sum_{i in S_t} n_i^y,     p_t(y) = sum_k n_k^y / sum_{y'} sum_k n_k^{y'},
    L_md  = sum_k alpha^{k,y} KL( sigma(D(x; w_k)) || sigma(D(x; w)) ),
    L_cls = sum_k alpha^{k,y} CE(D(x; w_k), y),
    L_dis = exp( - 1/Q^2 sum_{ij} |x_i - x_j| |z_i - z_j| ),

in I iterations of I_g steps of a generator that makes hard samples, and I_d steps of the shared model:

    min_G  lambda_cls L_cls + lambda_dis L_dis - L_md,          min_w  L_md.
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
from limbeck.federated.rounds import Clients, Round
from limbeck.losses.divergence import kl, soft_log
from limbeck.methods.federated._shared import (
    class_counts,
    class_shares,
    diversity,
    exchange,
    federate,
    judged_shared,
    learnt,
    models_of,
    weighted_mean,
)
from limbeck.models.classifier import Classifier

CARD = Card(
    key="fedftg",
    title="Fine-tuning Global Model via Data-Free Knowledge Distillation for Non-IID Federated Learning",
    authors="Zhang, Shen, Ding, Tao, Duan",
    year=2022,
    url="https://arxiv.org/abs/2203.09249",
    repo="https://github.com/ZhangLin-PKU/FedFTG",
    family="federated",
    summary="The server averages models, then fine-tunes the mean on made-up images on which it and they disagree.",
    modality="federated",
    teacher="ensemble",
    signal="logits",
    loop="alternating",
    fidelity="reconstruction",
    notes="Weights and every client's numbers of rows by class travel: not private by itself. The paper's order of the "
    "KL's arguments could not be verified: the default is that of the released code's model step, the other is "
    "order='global_first'. The code's generator measures hardness by absolute differences of logits and steps after "
    "every client; here it is L_md and one step for all. The code fine-tunes in train mode; here batch norm's running "
    "statistics, averaged like weights, are not touched by generated images.",
)


class _Images(nn.Module):
    """z and one-hot y to images in [0, 1]: a layer each to a quarter of the size, twice doubled with convolutions."""

    def __init__(self, noise: int, classes: int, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.noise, self.classes, self.size = noise, classes, shape[1:]
        self.small = (-(-shape[1] // 4), -(-shape[2] // 4))
        self.of_noise = nn.Linear(noise, width * self.small[0] * self.small[1])
        self.of_class = nn.Linear(classes, width * self.small[0] * self.small[1])
        self.before = nn.BatchNorm2d(2 * width)
        self.middle = nn.Sequential(
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2)
        )
        self.last = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1), nn.BatchNorm2d(width), nn.LeakyReLU(0.2),
            nn.Conv2d(width, shape[0], 3, padding=1), nn.BatchNorm2d(shape[0]), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        both = torch.cat([self.of_noise(z), self.of_class(F.one_hot(y, self.classes).to(z.dtype))], 1)
        x = self.before(both.view(len(z), -1, *self.small))
        x = self.middle(F.interpolate(x, scale_factor=2.0))
        return self.last(F.interpolate(x, self.size))


class FedFTG(Method):
    """Federated averaging, then data-free fine-tuning of the shared model at the server."""

    student: Classifier
    clients: Clients | None = None
    _: KW_ONLY
    iterations: Count = 10
    """I, alternations a round."""
    generator_steps: Count = 1
    """I_g, steps of the generator in each."""
    model_steps: Count = 5
    """I_d, steps of the shared model in each."""
    lambda_cls: NonNegative = 1.0
    """Weight of L_cls: images are what the local models take for their class."""
    lambda_dis: NonNegative = 1.0
    """Weight of L_dis: unlike noise makes unlike images."""
    order: Literal["local_first", "global_first"] = "local_first"
    """Which model is the KL's first argument."""
    generated: Count = 32
    """Q, images a step; the paper's 50."""
    noise: Count = 100
    """Dimensions of z."""
    width: Count = 32
    """Channels of the generator; the released code's 64."""
    population: Count = 20
    """How many clients share the training set."""
    split: str = "dirichlet-0.1"
    """How it is shared out: iid, dirichlet-ALPHA, shards-N, rotation-G or contrast-G."""
    participation: Fraction = 0.2
    """Share of the clients that a round asks; at least one."""
    epochs: Count = 5
    """Passes over a client's rows in a round."""
    batch: Count = 16
    """Rows a step at a client; the paper's 50."""
    lr: Positive = 0.05
    """The clients' learning rate."""
    momentum: Fraction = 0.0
    """Of the clients' SGD; it begins anew in every round."""

    def __post_init__(self) -> None:
        self.generator = _Images(self.noise, self.student.num_classes, self.width, self.student.shape)

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "generator": list(self.generator.parameters())}

    def broadcast(self, client: int) -> Payload:
        return take(self.student, "student")

    def local(self, client: Client, got: Payload) -> Payload:
        return {**learnt(self, client, got), "counts": class_counts(client)}

    def judge(self, client: Client, got: Payload) -> Payload:
        return judged_shared(self, client, got)

    def discrepancy(self, teachers: list[Classifier], alpha: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """L_md of images (B, ...) under ``alpha`` (M, B), and the local models' logits (M, B, K)."""
        local = torch.stack([teacher(x) for teacher in teachers])
        with eval_mode(self.student):
            shared = soft_log(self.student(x)).expand_as(local)
        apart = kl(soft_log(local), shared) if self.order == "local_first" else kl(shared, soft_log(local))
        return (alpha * apart).sum(0).mean(), local

    def updates(self, batch: Round, clock: Clock) -> Generator[Update, bool, None]:
        like = {**shapes(take(self.student, "student")), "counts": (self.student.num_classes,), "loss": ()}
        answers = exchange(self, batch, like)
        yield Update({}, logs=answers.logs)
        if not answers.replies:
            return
        put(self.student, weighted_mean(answers.replies, "student"), "student")
        teachers = models_of(self.student, answers.replies)
        device = next(self.student.parameters()).device
        counts = torch.stack([reply.payload["counts"] for reply in answers.replies]).to(device)
        shares = class_shares(counts)
        for _ in range(self.iterations):
            y = torch.multinomial(counts.sum(0), self.generated, replacement=True)  # p_t(y)
            z, alpha = torch.randn(self.generated, self.noise, device=device), shares[:, y]
            for _ in range(self.generator_steps):
                x = self.generator(z, y)
                l_md, local = self.discrepancy(teachers, alpha, x)
                each = F.cross_entropy(local.flatten(0, 1), y.repeat(len(teachers)), reduction="none")
                l_cls = (alpha * each.view_as(alpha)).sum(0).mean()
                l_dis = diversity(x, z)
                yield Update(
                    {"cls": self.lambda_cls * l_cls, "dis": self.lambda_dis * l_dis, "hard": -l_md}, "generator"
                )
            with torch.no_grad(), eval_mode(self.generator):
                x = self.generator(z, y)
            for _ in range(self.model_steps):
                yield Update({"md": self.discrepancy(teachers, alpha, x)[0]}, "student")

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        return federate(cls, setting, values)
