"""What the federated experiments share: clients on the digits, rounds, the personal accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from evidence._shared import accuracy, fresh
from limbeck import Method, fit
from limbeck.data.images import DataPair
from limbeck.methods.federated._shared import build
from limbeck.models.classifier import Classifier
from limbeck.models.tiny import cnn, mlp

__all__ = ["averaged", "federated", "network", "perceptron", "personal"]

M = TypeVar("M", bound=Method)
SERVER = partial(torch.optim.Adam, lr=1e-3)  # moves what trains at the server; clients have SGD of their own


def network(pair: DataPair, seed: int) -> Classifier:
    """A small convolutional network whose weights depend on the seed alone."""
    return fresh(seed, lambda: cnn(16, 32, shape=pair.train.shape, classes=pair.train.classes))


def federated(
    cls: type[M], pair: DataPair, seed: int, rounds: int, values: Mapping[str, Any], *,
    student: nn.Module | None = None, given: Mapping[str, Any] | None = None,
    weather: Callable[[int, int], None] | None = None, until: Callable[[M], bool] | None = None,
) -> M:  # fmt: skip
    """A method after so many rounds with clients in this process; the seed decides weights, partition and rounds.

    Args:
        student: another network than :func:`network`'s.
        given: further positional fields of the method.
        weather: what networks do to clients (see :func:`limbeck.federated.grid.in_process`).
        until: asked after every round; training ends when it says so.
    """
    torch.manual_seed(seed)
    start = network(pair, seed) if student is None else student
    method: Any
    method, batches = build(cls, start, pair.train, values, seed=seed, test=pair.test, given=given)
    if weather is not None:
        method.clients.meet()  # in fair weather
        method.clients.grid.weather = weather
    fit(method, batches, SERVER, steps=rounds) if until is None else _until(method, batches, rounds, until)
    return method.eval()


def _until(method: Any, batches: Any, rounds: int, until: Callable[[Any], bool]) -> None:
    from limbeck import iterate

    for _ in iterate(method, batches, SERVER, steps=rounds):
        if until(method):
            return


def personal(method: Any) -> float:
    """Accuracy, %, of every client's own model on its share of the test set, over all test images."""
    asked = {k: method.broadcast(k) for k in range(method.population)}
    found = [reply.payload for reply in method.clients.ask(asked, 0, task="evaluate").replies]
    return 100.0 * float(sum(p["correct"] for p in found) / sum(p["count"] for p in found))


def averaged(
    cls: type[Method], pair: DataPair, seed: int, rounds: int, values: Mapping[str, Any], *,
    student: nn.Module | None = None, given: Mapping[str, Any] | None = None, last: int = 10,
) -> float:  # fmt: skip
    """Test accuracy, %, of the shared model: the mean over the last rounds, because who took part in one moves it."""
    found = list[float]()

    def see(method: Any) -> bool:
        found.append(accuracy(method.student, pair.test))
        method.train()
        return False

    federated(cls, pair, seed, rounds, values, student=student, given=given, until=see)
    return sum(found[-last:]) / len(found[-last:])


def perceptron(pair: DataPair, seed: int) -> Classifier:
    """One hidden layer of 64, without batch norm, whose weights depend on the seed alone."""
    return fresh(seed, lambda: mlp(64, shape=pair.train.shape, classes=pair.train.classes))
