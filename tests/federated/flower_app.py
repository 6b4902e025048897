"""A whole Flower app that three engines run, unchanged.

Flower's deployment starts a process for every message, so it imports little.
"""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from limbeck.core.method import Method
from limbeck.data.images import ImageSet
from limbeck.federated.apps import client_app, server_app
from limbeck.federated.client import Client
from limbeck.federated.partition import partition
from limbeck.federated.rounds import Clients
from limbeck.models.classifier import Classifier
from limbeck.models.load import seeded
from limbeck.models.tiny import cnn
from tests.federated.heads import Heads

POPULATION, ROUNDS, SEED = 3, 4, 5
VALUES = {"population": POPULATION, "participation": 0.67, "split": "iid"}


def student() -> Classifier:
    with seeded(3):
        return cnn(6, 10, shape=(1, 8, 8), classes=6)


def images(seed: int) -> ImageSet:
    """A pattern a class, with noise."""
    drawn, labels = torch.Generator().manual_seed(seed), torch.arange(120) % 6
    patterns = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = 0.3 * torch.randn(120, 1, 8, 8, generator=drawn)
    return ImageSet((patterns[labels] + noise).clamp(0, 1), labels, tuple("abcdef"))


def home(number: int) -> Client:
    train, test = images(1), images(2)
    parts = partition("iid", train.labels, POPULATION, SEED)
    return Client(number, train.subset(parts[number]), test)


def summary(method: Any) -> dict[str, Any]:
    """Sums that agree only when every bit does: the shared weights, and what clients say of their own models."""
    asked = {k: method.broadcast(k) for k in range(POPULATION)}
    found = method.clients.ask(asked, 0, task="evaluate").replies
    return {
        "shared": [float(v.double().sum()) for v in method.student.state_dict().values()],
        "personal": [float(r.payload["correct"]) for r in found],
    }


def finish(method: Method, record: object) -> None:
    said = summary(method) | {"seconds": time.monotonic() - BEGAN}
    Path(os.environ["LIMBECK_SAID"]).write_text(json.dumps(said))


def at_server(clients: Clients) -> Heads:
    global BEGAN
    torch.set_num_threads(1)
    clients.meet()
    BEGAN = time.monotonic()
    return Heads(student(), clients, **VALUES)


BEGAN = 0.0
client = client_app(lambda: Heads(student(), None, **VALUES), home)
server = server_app(
    at_server, population=POPULATION, participation=VALUES["participation"], steps=ROUNDS,
    optimizer=partial(torch.optim.SGD, lr=0.05), seed=SEED, finish=finish,
)  # fmt: skip
