"""Evidence for group PFL on digits: two groups of five clients that contradict each other.

Clients of odd number call every digit by the name of the one five further on, so that one model cannot serve both
groups. Shares are Dirichlet 0.5. The baseline spends all rounds on the shared model; in both every client fine-tunes
for two epochs before it is judged. Groups from scratch (no rounds for all) stand beside them.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from evidence._federated import perceptron, personal
from evidence._shared import images
from limbeck import fit
from limbeck.data.images import ImageSet
from limbeck.federated.apps import client_app
from limbeck.federated.client import Client
from limbeck.federated.grid import in_process
from limbeck.federated.partition import alike, partition
from limbeck.federated.rounds import Clients, Rounds
from limbeck.methods.federated.group_pfl import GroupPFL
from limbeck.run.evidence import Result

CLAIM = "Where groups of clients contradict each other, a model a group fine-tunes better than the shared one"
ROUNDS, CLIENTS = 40, 10


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same network, clients, rounds and fine-tuning."""
    pair = images(data)
    parts = partition("dirichlet-0.5", pair.train.labels, CLIENTS, seed)
    dealt = alike(parts, pair.train.labels, pair.test.labels, seed)

    def named(part: ImageSet, client: int) -> ImageSet:
        return replace(part, labels=(part.labels + 5 * (client % 2)) % len(part.classes))

    homes = [
        Client(k, named(pair.train.subset(rows), k), named(pair.test.subset(dealt[k]), k))
        for k, rows in enumerate(parts)
    ]

    def made(shared: float, fall: float = 0.5) -> float:
        torch.manual_seed(seed)
        net, values = perceptron(pair, seed), {"population": CLIENTS, "lr": 0.1, "shared": shared, "fall": fall}
        worker = GroupPFL(copy.deepcopy(net), None, **values)
        fresh = [Client(home.number, home.train, home.test) for home in homes]
        app = client_app(lambda: worker, fresh.__getitem__)
        method = GroupPFL(net, Clients(in_process(app, CLIENTS), CLIENTS, seed=seed), **values)
        fit(method, Rounds(CLIENTS, 0.5, seed), partial(torch.optim.SGD, lr=0.0), steps=ROUNDS)
        return personal(method)

    return Result(
        metric="personal accuracy after fine-tuning, %",
        baseline=made(1.0),
        method=made(0.5),
        higher_is_better=True,
        versus="the shared model, fine-tuned in the same way",
        extra={"groups from scratch": made(0.0)},
    )
