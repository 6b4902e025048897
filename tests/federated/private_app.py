"""A Flower app of private rounds, whose clients clip: the same code on every engine."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import torch

from limbeck.core.method import Method
from limbeck.federated.apps import client_app, server_app
from limbeck.federated.rounds import Clients
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.models.classifier import Classifier
from limbeck.models.load import seeded
from limbeck.models.tiny import mlp
from tests.federated.flower_app import POPULATION, home

VALUES = {
    "population": POPULATION, "participation": 0.67, "split": "iid", "privacy": "local", "clipping_norm": 0.1,
    "noise_multiplier": 0.5, "delta": 1e-3,
}  # fmt: skip


def student() -> Classifier:
    with seeded(3):
        return mlp(8, shape=(1, 8, 8), classes=6)


def at_server(clients: Clients) -> FedAvg:
    torch.set_num_threads(1)
    return FedAvg(student(), clients, **VALUES)


def finish(method: Method, record: object) -> None:
    sums = [float(v.double().sum()) for v in method.student.state_dict().values()]  # type: ignore[union-attr]
    Path(os.environ["LIMBECK_SAID"]).write_text(json.dumps({"shared": sums}))


client = client_app(lambda: FedAvg(student(), None, **VALUES), home)
server = server_app(
    at_server, population=POPULATION, participation=VALUES["participation"], steps=3,
    optimizer=partial(torch.optim.SGD, lr=0.05), seed=5, finish=finish,
)  # fmt: skip
