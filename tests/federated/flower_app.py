"""A whole Flower app on the toy world: what the three engines run, unchanged."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from limbeck.core.method import Method
from limbeck.federated.apps import client_app, server_app
from limbeck.federated.client import Client
from limbeck.federated.partition import partition
from limbeck.federated.rounds import Clients
from limbeck.models.classifier import Classifier
from tests.federated.heads import Heads
from tests.worlds import SGD, _fresh, _images

POPULATION, ROUNDS, SEED = 3, 4, 5
VALUES = {"population": POPULATION, "participation": 0.67, "split": "iid"}


def student() -> Classifier:
    return _fresh(3, 6, 10)


def home(number: int) -> Client:
    train, test = _images(0)
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
    at_server, population=POPULATION, participation=VALUES["participation"], steps=ROUNDS, optimizer=SGD, seed=SEED,
    finish=finish,
)  # fmt: skip
