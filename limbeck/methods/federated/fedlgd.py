"""FedLGD: Federated Learning on Virtual Heterogeneous Data with Local-global Distillation (Huang et al., 2023).
https://arxiv.org/abs/2303.02278

Clients never train on their own images, but on a few virtual ones S_k that match them by class means of features,

    min_{S_k} sum_c || mean phi(A(T_{k,c})) - mean phi(A(S_{k,c})) ||^2,

with phi drawn anew every step when a client first takes part, and the current shared model's in a refresh: every
``gap`` rounds, at first. The server has virtual images S_g of its own, and sends them along. A client trains on both,

    min_w CE(f_w(x), y) + lambda SupCon(phi_w(x), phi_w(S_g))            x in S_k and S_g,

without the second term in the rounds of a refresh, so that the mean of the clients tells a gradient; from it the server
refreshes its images, through the weights from before that round:

    min_{S_g} D( grad_w CE(f_w(S_g), y_g), (w - w') / eta ),             D: rows' 1 - cos, of every weight.
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
from limbeck.core.method import Clock, Count, Fraction, MakeOptimizer, Method, NonNegative, Positive, Setting, Update
from limbeck.core.modules import Taps, eval_mode
from limbeck.data.augment import augmentation
from limbeck.data.images import ImageSet
from limbeck.federated.client import Client
from limbeck.federated.payload import Payload, put, shapes, take
from limbeck.federated.rounds import Clients, Round
from limbeck.losses.matching import gradient_distance, mean_distance
from limbeck.methods.federated._shared import exchange, federate, judged_shared, weighted_mean
from limbeck.models.classifier import Classifier
from limbeck.models.renew import renew

CARD = Card(
    key="fedlgd",
    title="Federated Learning on Virtual Heterogeneous Data with Local-global Distillation",
    authors="Chun-Yin Huang, Ruinan Jin, Can Zhao, Daguang Xu, Xiaoxiao Li",
    year=2023,
    url="https://arxiv.org/abs/2303.02278",
    repo="https://github.com/ubc-tea/FedLGD",
    family="federated",
    summary="Clients train on a few virtual images distilled from theirs, and on the server's, distilled from updates.",
    modality="federated",
    teacher="previous",
    signal="features",
    loop="alternating",
    notes="Weights, the server's images and once every client's mean and deviation of pixels by class travel: not "
    "private by itself; the clients' virtual images stay. Begun with pixels drawn from these; the released code "
    "divides "
    "their sums by the rows of all classes, here by those of the class. Its 10000 steps of warm-up, 100 and 500 of a "
    "refresh, 50 and 10 images a class are for larger sets than these defaults. A client has no more virtual images "
    "of a "
    "class than rows. The clients' models are averaged plainly, batch norm's running statistics too; gradients are "
    "matched in eval mode, so that a network without batch norm (convnet) is the better choice. Warm-up needs layers "
    "that can draw their weights anew.",
)


def supervised_contrast(features: Tensor, y: Tensor, temperature: float) -> Tensor:
    """- mean_i mean_{p: y_p = y_i} log exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t), z unit vectors; a scalar.

    Khosla et al. (2020), https://arxiv.org/abs/2004.11362, equation 2. A row that is alone in its class counts as 0.

    Args:
        features: (N, D).
        y: (N,).
    """
    z, itself = F.normalize(features, dim=1), torch.eye(len(y), dtype=torch.bool, device=y.device)
    logs = (z @ z.T / temperature).masked_fill(itself, -torch.inf).log_softmax(1).masked_fill(itself, 0)
    alike = (y[:, None] == y) & ~itself
    return -((logs * alike).sum(1) / alike.sum(1).clamp(min=1)).mean()


class FedLGD(Method):
    """The shared model and the server's virtual images."""

    student: Classifier
    clients: Clients | None = None
    _: KW_ONLY
    per_class: Count = 5
    """Virtual images a class at a client; the paper's 50."""
    per_class_global: Annotated[int, Ge(0)] = 2
    """The server's; the paper's 10. 0 for none: federated averaging on the clients' virtual images alone."""
    warmup: Count = 20
    """Steps of distribution matching when a client first takes part; the released code's 10000."""
    local_steps: Count = 10
    """Of it in a refresh; the released code's 100."""
    global_steps: Count = 10
    """Steps of gradient matching in a refresh; the released code's 500."""
    gap: Count = 5
    """Rounds between two refreshes."""
    refreshes: Annotated[int, Ge(0)] = 10
    """How many of them follow that of round 0, in which the server's images alone are refreshed."""
    lam: NonNegative = 1.0
    """lambda, weight of the contrast; the paper's 1 or 10."""
    temperature: Positive = 0.07
    """t of the contrast."""
    lr_image: Positive = 1.0
    """Step size of virtual images at clients and server, with momentum 0.5."""
    real: Count = 256
    """Rows of a client that a step of matching looks at."""
    augment: str = "shift+rotate"
    """A, drawn alike for real and virtual images; the paper's colour+crop+erase+flip+rotate."""
    population: Count = 20
    """How many clients share the training set."""
    split: str = "dirichlet-0.1"
    """How it is shared out: iid, dirichlet-ALPHA, shards-N, rotation-G or contrast-G."""
    participation: Fraction = 0.2
    """Share of the clients that a round asks; at least one. The paper's 1."""
    epochs: Count = 1
    """Passes over the virtual images in a round."""
    batch: Count = 32
    """Virtual images a step."""
    lr: Positive = 0.05
    """eta, the clients' learning rate; the paper's 0.01."""
    momentum: Fraction = 0.0
    """Of the clients' SGD; it begins anew in every round."""

    def __post_init__(self) -> None:
        classes = self.student.num_classes
        like = self.student.example[:1].expand(classes * self.per_class_global, -1, -1, -1)
        self.images = nn.Parameter(torch.zeros_like(like))  # S_g
        self.register_buffer("labels", torch.arange(classes).repeat_interleave(self.per_class_global))

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"images": [self.images]}

    def optimizers(self, make: MakeOptimizer) -> dict[str, torch.optim.Optimizer]:
        return {"images": self.image_optimizer(self.images)}

    def image_optimizer(self, images: Tensor) -> torch.optim.Optimizer:
        return torch.optim.SGD([images], lr=self.lr_image, momentum=0.5)

    def refresh(self, number: int) -> bool:
        """Whether virtual images are refreshed in a round."""
        return number % self.gap == 0 and number <= self.gap * self.refreshes

    def broadcast(self, client: int) -> Payload:
        return {**take(self.student, "student"), "images": self.images.detach().cpu().clone()}

    def local(self, client: Client, got: Payload) -> Payload:
        if not got:
            return self.pixels(client.train)
        if not client.state:
            client.state = self.begun(client.train)
            self.match(client, self.warmup, lambda: renew(self.student).train())
            put(self.student, got, "student")
        else:
            put(self.student, got, "student")
            if self.refresh(client.round):
                self.match(client, self.local_steps, self.student.eval)
        self.student.train()
        return {"loss": self.learn(client, got["images"]), **take(self.student, "student")}

    def pixels(self, data: ImageSet) -> Payload:
        """Mean and standard deviation of a class's pixels, (K, C) both, and its rows, (K,)."""
        x, y = data.take(torch.arange(len(data)))
        mean, std = (torch.zeros(len(data.classes), x.shape[1]) for _ in range(2))
        for k in y.unique().tolist():
            own = x[y == k].transpose(0, 1).flatten(1)
            mean[k], std[k] = own.mean(1), own.std(1, correction=0)
        return {"mean": mean, "std": std, "counts": torch.bincount(y, minlength=len(data.classes)).float()}

    def begun(self, data: ImageSet) -> Payload:
        """S_k of pixels drawn from the client's own statistics; no more images of a class than rows."""
        about = self.pixels(data)
        y = torch.cat([torch.full((min(self.per_class, int(n)),), k) for k, n in enumerate(about["counts"])])
        drawn = torch.randn(len(y), *data.shape)
        return {"images": about["mean"][y][..., None, None] + about["std"][y][..., None, None] * drawn, "labels": y}

    def matching(self, real: Tensor, real_y: Tensor, made: Tensor, made_y: Tensor) -> Tensor:
        """The distance of class means behind the student's last layer, summed over classes."""
        taps = Taps(f"{self.student.head}:in")
        change = augmentation(self.augment, self.student.shape, same=True)
        if change is not None:
            both = change(torch.cat([real, made]))
            real, made = both[: len(real)], both[len(real) :]
        with torch.no_grad():
            _, [wanted] = taps(self.student, real)
        _, [feature] = taps(self.student, made)
        return mean_distance(wanted, real_y, feature, made_y, self.student.num_classes).sum()

    def match(self, client: Client, steps: int, look: Any) -> None:
        """Move S_k; ``look`` is called before every step and prepares the network to look through."""
        made = client.state["images"].clone().requires_grad_()
        optimizer = self.image_optimizer(made)
        for _ in range(steps):
            look()
            rows = torch.randperm(len(client.train))[: self.real]
            distance = self.matching(*client.train.take(rows), made, client.state["labels"])
            [made.grad] = torch.autograd.grad(distance, [made])
            optimizer.step()
        client.state["images"] = made.detach()

    def learn(self, client: Client, shared: Tensor) -> Tensor:
        """Epochs on virtual images, the client's and the server's; the mean loss."""
        x, y = torch.cat([client.state["images"], shared]), torch.cat([client.state["labels"], self.labels])
        optimizer = torch.optim.SGD(self.student.parameters(), lr=self.lr, momentum=self.momentum)
        weight, losses = 0.0 if self.refresh(client.round) or not len(shared) else self.lam, list[Tensor]()
        for _ in range(self.epochs):
            for rows in torch.randperm(len(y)).split(self.batch):
                if len(rows) == 1 < len(y):
                    continue  # batch norm cannot train on one image
                optimizer.zero_grad()
                loss = self.objective(x[rows], y[rows], shared, weight)
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
        return torch.stack(losses).mean() if losses else torch.zeros(())

    def objective(self, x: Tensor, y: Tensor, shared: Tensor, weight: float) -> Tensor:
        taps = Taps(f"{self.student.head}:in")
        logits, [own] = taps(self.student, x)
        loss = F.cross_entropy(logits, y)
        if weight:
            _, [theirs] = taps(self.student, shared)
            both, labels = torch.cat([own, theirs]), torch.cat([y, self.labels])
            loss = loss + weight * supervised_contrast(both, labels, self.temperature)
        return loss

    def judge(self, client: Client, got: Payload) -> Payload:
        return judged_shared(self, client, got)

    @torch.no_grad()
    def begin(self, batch: Round) -> dict[str, Tensor]:
        """S_g of pixels drawn from the mean of all clients' statistics; a class of nobody has those of all others."""
        assert self.clients is not None
        classes, channels = self.student.num_classes, self.images.shape[1]
        like = {"mean": (classes, channels), "std": (classes, channels), "counts": (classes,)}
        asked = self.clients.ask({k: Payload() for k in range(self.population)}, batch.number, like=like)
        if asked.replies:
            told = {n: torch.stack([r.payload[n] for r in asked.replies]).to(self.images) for n in like}
            has = (told["counts"] > 0).float()[..., None]
            known = has.sum(0) > 0  # (K, 1)
            mean, std = ((told[n] * has).sum(0) / has.sum(0).clamp(min=1) for n in ("mean", "std"))
            mean, std = (torch.where(known, v, (v * known).sum(0) / known.sum()) for v in (mean, std))
            y = self.labels
            self.images.copy_(mean[y][..., None, None] + std[y][..., None, None] * torch.randn_like(self.images))
        return asked.logs

    def gradient(self) -> list[Tensor]:
        """grad_w CE(f_w(S_g), y_g), a function of the images."""
        with eval_mode(self.student):
            loss = F.cross_entropy(self.student(self.images), self.labels)
            return list(torch.autograd.grad(loss, list(self.student.parameters()), create_graph=True))

    def updates(self, batch: Round, clock: Clock) -> Generator[Update, bool, None]:
        opening = self.begin(batch) if batch.number == 0 and self.per_class_global else {}
        answers = exchange(self, batch, {**shapes(take(self.student, "student")), "loss": ()})
        for way in {"bytes_down", "bytes_up"} & opening.keys():  # a step has one log: what is sent adds up
            answers.logs[way] = answers.logs[way] + opening[way]
        yield Update({}, "images", logs=answers.logs)
        if not answers.replies:
            return
        mean = weighted_mean(answers.replies, "student", [1.0] * len(answers.replies))
        if self.refresh(batch.number) and self.per_class_global:
            told = [
                (p.detach() - mean[f"student/{n}"].to(p)) / self.lr for n, p in self.student.named_parameters()
            ]  # fmt: skip
            for _ in range(self.global_steps):
                yield Update({"match": gradient_distance(told, self.gradient())}, "images")
        put(self.student, mean, "student")

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        return federate(cls, setting, values)
