"""What federated methods share: a question to a round's clients, training and judging at one, the weighted mean."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.method import Method, Setting
from limbeck.core.modules import eval_mode, freeze
from limbeck.data.batches import images_behind
from limbeck.data.images import ImageSet
from limbeck.errors import InputError
from limbeck.federated.apps import client_app
from limbeck.federated.client import Client
from limbeck.federated.grid import in_process
from limbeck.federated.partition import alike, partition, skewed
from limbeck.federated.payload import Payload, Shapes, put, shapes, take
from limbeck.federated.privacy import Privacy
from limbeck.federated.rounds import Answers, Clients, Reply, Round, Rounds

__all__ = [
    "averaged", "build", "class_counts", "class_shares", "diversity", "exchange", "federate", "federate_with_public",
    "images_of", "judged", "judged_shared", "learnt", "models_of", "released", "train_locally", "weighted_mean",
]  # fmt: skip

M = TypeVar("M", bound=Method)
N = TypeVar("N", bound=nn.Module)
Loss = Callable[[Tensor, Tensor], Tensor]


def exchange(method: Any, batch: Round, like: Shapes | Callable[[int], Shapes] | None = None) -> Answers:
    """One round trip: every client of the round gets the method's ``broadcast`` and answers with ``local``.

    The logs have the clients' mean ``loss`` where they send one.
    """
    answers = method.clients.ask({k: method.broadcast(k) for k in batch.clients}, batch.number, like=like)
    if answers.replies and "loss" in answers.replies[0].payload:
        answers.logs["loss"] = weighted_mean(answers.replies, "loss")["loss"]
    return answers


@torch.no_grad()
def weighted_mean(replies: Sequence[Reply], name: str, weights: Sequence[float] | None = None) -> Payload:
    """sum_k w_k v_k / sum_k w_k of the entries ``name`` or ``name/...``; w_k is the number of rows of client k.

    Whole numbers, such as batch norm's counters, are rounded.
    """
    w = torch.tensor([float(r.samples) for r in replies] if weights is None else list(weights), dtype=torch.float64)
    w = w / w.sum()
    mean: Payload = {}
    for key, like in replies[0].payload.items():
        if key == name or key.startswith(f"{name}/"):
            stacked = torch.stack([reply.payload[key] for reply in replies]).double()
            whole = torch.einsum("k,k...->...", w, stacked)
            mean[key] = (whole if like.is_floating_point() else whole.round()).to(like.dtype)
    return mean


def train_locally(
    module: nn.Module, client: Client, loss: Loss, *, epochs: int, batch: int, lr: float, momentum: float = 0.0,
    adjust: Callable[[], None] = lambda: None,
) -> Tensor:  # fmt: skip
    """SGD on the client's rows; the mean loss of all steps, a scalar.

    Args:
        module: its trainable parameters move.
        loss: of x (B, C, H, W) and y (B,): a scalar.
        adjust: called between ``backward`` and the step, for methods that change gradients.
    """
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=lr, momentum=momentum)
    total, steps = torch.zeros(()), 0
    for x, y in client.batches(epochs, batch):
        optimizer.zero_grad()
        now = loss(x, y)
        now.backward()
        adjust()
        optimizer.step()
        total, steps = total + now.detach().cpu(), steps + 1
    return total / max(steps, 1)


def averaged(method: Any, batch: Round) -> dict[str, Tensor]:
    """A round of averaging, privately if the method is asked to: the shared model moves. Returns the round's logs."""
    private, start = Privacy.of(method), take(method.student, "student")
    if private is None:
        answers = exchange(method, batch, {**shapes(start), "loss": ()})
        if answers.replies:
            put(method.student, weighted_mean(answers.replies, "student"), "student")
        return answers.logs
    answers = exchange(method, batch, shapes(private.covered(start)))
    put(method.student, private.mean(answers.replies, start), "student")
    return {**answers.logs, **private.logs(batch.number + 1)}


def released(method: Any, got: Payload, reply: Payload) -> Payload:
    """What a client of such a method sends back: its reply, or what privacy lets go of it."""
    private = Privacy.of(method)
    return reply if private is None else private.sent(reply, got)


def learnt(method: Any, client: Client, got: Payload, model: nn.Module | None = None) -> Payload:
    """FedAvg's work at a client: epochs of SGD on cross-entropy from the model that was sent; weights and mean loss.

    Args:
        model: the client's; the method's student by default.
    """
    net = method.student if model is None else model
    put(net, got, "student")

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x), y)

    mean = train_locally(
        net, client, loss, epochs=method.epochs, batch=method.batch, lr=method.lr, momentum=method.momentum
    )
    return {**take(net, "student"), "loss": mean}


def judged_shared(method: Any, client: Client, got: Payload) -> Payload:
    """:func:`judged` of the model that was sent."""
    put(method.student, got, "student")
    return judged(method.student, client)


@torch.no_grad()
def judged(model: Callable[[Tensor], Tensor], client: Client) -> Payload:
    """``correct`` and ``count`` on the client's own held-out rows, in eval mode."""
    if client.test is None or not len(client.test):
        return {"correct": torch.zeros(()), "count": torch.zeros(())}
    x, y = client.test.take(torch.arange(len(client.test)))
    with eval_mode(*([model] if isinstance(model, nn.Module) else [])):
        correct = (model(x).argmax(1) == y).sum()
    return {"correct": correct.float().cpu(), "count": torch.tensor(float(len(y)))}


def build(
    cls: type[M], student: nn.Module, train: ImageSet, values: Mapping[str, Any], *, seed: int = 0,
    test: ImageSet | None = None, given: Mapping[str, Any] | None = None,
    weather: Callable[[int, int], None] = lambda client, number: None,
) -> tuple[M, Rounds]:  # fmt: skip
    """A method whose clients live in this process, and its rounds.

    Args:
        student: the server's; a client works on a copy of the first one, and of the modules in ``given``.
        train: shared out by the method's ``population`` and ``split``.
        test: dealt so that every client gets its share of every class; without it clients have nothing to judge on.
        given: further positional fields, for server and clients.
        weather: see :func:`limbeck.federated.grid.in_process`.
    """
    more = {} if given is None else given
    own = {name: copy.deepcopy(held) if isinstance(held, nn.Module) else held for name, held in more.items()}
    worker: Any = cls(student=copy.deepcopy(student), clients=None, **own, **values)  # type: ignore[call-arg]
    parts = partition(worker.split, train.labels, worker.population, seed)
    dealt = alike(parts, train.labels, test.labels, seed) if test is not None else None
    homes = [
        Client(
            k, skewed(worker.split, k, train.subset(rows)),
            skewed(worker.split, k, test.subset(dealt[k])) if test is not None and dealt is not None else None,
        )
        for k, rows in enumerate(parts)
    ]  # fmt: skip
    app = client_app(lambda: worker, homes.__getitem__)
    clients = Clients(in_process(app, len(homes), weather), len(homes), seed=seed)
    method = cls(student=student, clients=clients, **more, **values)  # type: ignore[call-arg]
    coins = getattr(worker, "privacy", "none") != "none"
    return method, Rounds(len(homes), worker.participation, seed, coins=coins)


def federate(
    cls: type[Method], setting: Setting, values: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> nn.Module:
    """The procedure of a federated method: share the run's images out, one round a step, return the shared student."""
    whole, seed = images_of(setting)
    method, rounds = build(cls, setting.student(), whole, values, seed=seed, given=given)
    setting.fit(method, data=rounds)
    return method.student  # type: ignore[return-value]


def images_of(setting: Setting) -> tuple[ImageSet, int]:
    """The run's images, all of them, and its seed."""
    return images_behind(setting.data), setting.data.seed  # type: ignore[attr-defined]


def models_of(student: N, replies: Sequence[Reply]) -> list[N]:
    """Every client's model, frozen: copies of ``student`` with the weights ``student/...`` that the clients sent."""
    made = list[N]()
    for reply in replies:
        model = copy.deepcopy(student)
        put(model, reply.payload, "student")
        made.append(freeze(model))
    return made


def class_counts(client: Client) -> Tensor:
    """How many of the client's rows are of each class, (K,)."""
    return torch.bincount(client.train.labels, minlength=len(client.train.classes)).float()


def class_shares(counts: Tensor) -> Tensor:
    """alpha^{k,y} = n_k^y / sum_j n_j^y from counts (M, K): columns sum to one, or are zero where nobody has the class.

    Such a class must not be drawn: nobody could say anything of it.
    """
    return counts / counts.sum(0).clamp(min=1)


def diversity(made: Tensor, noise: Tensor) -> Tensor:
    """exp(- mean_{i,j} d(made_i, made_j) e(noise_i, noise_j)): small when unlike noise makes unlike things; in (0, 1].

    As in the released code of FedGen and FedFTG, d is the mean absolute and e the mean squared difference over the
    dimensions: with norms, as the papers write, the exponential is zero for all but few dimensions.

    Args:
        made: (B, ...).
        noise: (B, D).
    """
    x, n = made.flatten(1), len(made)
    apart = torch.cdist(x, x, p=1) / x.shape[1]
    asked = (noise[:, None] - noise).square().mean(2)
    return (-(apart * asked).sum() / n**2).exp()


def federate_with_public(
    cls: type[Method], setting: Setting, values: Mapping[str, Any], labels: bool,
    given: Mapping[str, Any] | None = None,
) -> nn.Module:  # fmt: skip
    """:func:`federate` for a method with ``public`` images: a ``share`` of the run's, the rest are shared out.

    Args:
        labels: whether the public images keep their labels.
        given: further positional fields of the method.
    """
    whole, seed = images_of(setting)
    share = values.get("share", cls.share)  # type: ignore[attr-defined]
    if not 0 < share < 1:
        raise InputError("share", share, "leaves the server or the clients no images; it must be between 0 and 1")
    rest, public = whole.split(share, seed)
    if not labels:
        public = replace(public, labels=torch.full_like(public.labels, -1))
    more = {"public": public, **({} if given is None else given)}
    method, rounds = build(cls, setting.student(), rest, values, seed=seed, given=more)
    setting.fit(method, data=rounds)
    return method.student  # type: ignore[return-value]
