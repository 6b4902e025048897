"""Self-Aware Personalized Federated Learning (Chen et al., 2022). https://arxiv.org/abs/2204.08069

Clients' parameters are drawn around a shared one, theta_m ~ N(theta_0, sigma_0^2), and known up to sigma_m^2. Then

    theta_m^pers = (sigma_0^2 theta_m^loc + sigma_m^2 theta^glob) / (sigma_0^2 + sigma_m^2)
    theta^glob   = sum_m w_m theta_m,      w_m = (sigma_0^2 + sigma_m^2)^-1 / sum_j (sigma_0^2 + sigma_j^2)^-1
    sigma_0^2    = max(eps, Var_m(theta_m) - mean_m sigma_m^2)

Local steps that shrink by (1 - eta) reach theta_m^pers after

    l_m = log(sigma_m^2 / (sigma_0^2 + sigma_m^2)) / log(1 - eta)

of them: clients that are much alike, or uncertain of themselves, take few. A client begins at the shared model with its
own last contribution taken out.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, Positive, Setting, Update
from limbeck.errors import InputError
from limbeck.federated.client import Client
from limbeck.federated.payload import Payload, part, put, shapes, take
from limbeck.federated.rounds import Clients, Reply, Round
from limbeck.methods.federated._shared import exchange, federate, judged, weighted_mean

CARD = Card(
    key="self_fl",
    title="Self-Aware Personalized Federated Learning",
    authors="Huili Chen, Jie Ding, Eric Tramel, Shuang Wu, Anit Kumar Sahu, Salman Avestimehr, Tao Zhang",
    year=2022,
    url="https://arxiv.org/abs/2204.08069",
    family="federated",
    summary="How long a client trains and how much it counts follow from how sure it is and how much clients differ.",
    modality="federated",
    teacher="none",
    signal="weights",
    fidelity="reconstruction",
    notes="Nothing is distilled. Weights and one variance travel: not private by itself. Assumed: sigma_m^2 is "
    "the mean variance over coordinates of the local iterates of the last epoch, one number for all layers; eta of the "
    "step rule is a setting of its own; steps are clipped. The local model is judged, which the steps make the "
    "personal one. Batch norm's statistics are averaged like weights.",
)


def precision_weights(own: Tensor, between: Tensor) -> Tensor:
    """w_m from the variances sigma_m^2 (M,) and sigma_0^2: they sum to one."""
    w = 1 / (between + own)
    return w / w.sum()


def local_steps(own: float, between: float, eta: float) -> float:
    """l_m: how many steps, each (1 - eta) of the way left, lead from the shared to the personal parameters."""
    return math.log(own / (between + own)) / math.log1p(-eta)


class SelfFL(Method):
    """The shared model; each client's own stays with it."""

    student: nn.Module
    clients: Clients | None = None
    _: KW_ONLY
    population: Count = 20
    """K, how many clients share the training set."""
    split: str = "dirichlet-0.1"
    """How it is shared out: iid, dirichlet-ALPHA, shards-N, rotation-G or contrast-G."""
    participation: Fraction = 0.2
    """The share of the clients that a round asks; at least one."""
    batch: Count = 16
    """Rows a step at a client."""
    lr: Positive = 0.05
    """The clients' learning rate."""
    eta: Fraction = 0.05
    """How much of the way a local step is taken to go, for the number of steps."""
    least: Count = 2
    """Fewest local steps."""
    most: Count = 40
    """Most local steps, and as many in a client's first round."""

    def __post_init__(self) -> None:
        if not 0 < self.eta < 1 or self.least > self.most:
            field = "eta" if not 0 < self.eta < 1 else "least"
            raise InputError(field, getattr(self, field), "must be between 0 and 1, and least at most most")
        self.register_buffer("between", torch.tensor(0.0))  # sigma_0^2; 0 before it is known
        self.register_buffer("share", torch.zeros(self.population))  # w_m of the round before, 0 for the absent

    def broadcast(self, client: int) -> Payload:
        return {**take(self.student, "student"), "between": self.between.clone(), "share": self.share[client].clone()}

    def begin(self, client: Client, got: Payload) -> None:
        """The shared model without the client's own last contribution: (theta - w_m theta_m) / (1 - w_m)."""
        put(self.student, got, "student")
        share, sent = float(got["share"]), part(client.state, "student")
        if sent and 0 < share < 0.99:
            with torch.no_grad():
                for name, p in self.student.named_parameters():
                    p.copy_((p - share * sent[name]) / (1 - share))

    def local(self, client: Client, got: Payload) -> Payload:
        self.begin(client, got)
        steps, own, between = self.most, client.state.get("own"), float(got["between"])
        if own is not None and between > 0:
            steps = min(self.most, max(self.least, round(local_steps(float(own), between, self.eta))))
        optimizer = torch.optim.SGD(self.student.parameters(), lr=self.lr)
        an_epoch = max(2, min(steps, math.ceil(len(client.train) / self.batch)))
        iterates, losses = list[Tensor](), list[Tensor]()
        for x, y in client.batches(steps, self.batch):  # as many epochs as steps are enough
            optimizer.zero_grad()
            loss = F.cross_entropy(self.student(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            iterates = [*iterates[1 - an_epoch :], torch.cat([p.detach().flatten() for p in self.student.parameters()])]
            if len(losses) == steps:
                break
        spread = torch.stack(iterates).var(0).mean() if len(iterates) > 1 else torch.tensor(0.0)
        variance = spread.clamp(min=1e-12)
        client.state = {**take(self.student, "student"), "own": variance}
        taken = torch.tensor(float(len(losses)))
        return {
            **take(self.student, "student"), "loss": torch.stack(losses).mean(), "own": variance, "steps": taken
        }  # fmt: skip

    def judge(self, client: Client, got: Payload) -> Payload:
        put(self.student, client.state or got, "student")
        return judged(self.student, client)

    def weigh(self, replies: list[Reply]) -> Tensor:
        """sigma_0^2 from this round's models, and w_m, (M,)."""
        own = torch.stack([reply.payload["own"] for reply in replies])
        names = [f"student/{n}" for n, _ in self.student.named_parameters()]
        flat = torch.stack([torch.cat([r.payload[n].flatten() for n in names]) for r in replies])
        if len(replies) > 1:
            self.between = (flat.var(0).mean() - own.mean()).clamp(min=1e-8)
        return precision_weights(own, self.between)

    def updates(self, batch: Round, clock: Clock) -> Generator[Update, bool, None]:
        like = {**shapes(take(self.student, "student")), "loss": (), "own": (), "steps": ()}
        answers = exchange(self, batch, like)
        if answers.replies:
            w = self.weigh(answers.replies)
            put(self.student, weighted_mean(answers.replies, "student", w.tolist()), "student")
            self.share.zero_()
            self.share[[reply.client for reply in answers.replies]] = w
            answers.logs["steps"] = torch.stack([reply.payload["steps"] for reply in answers.replies]).mean()
        yield Update({}, logs=answers.logs)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        return federate(cls, setting, values)
