"""FedMD: ten clients with five architectures, together and alone, in the paper's non-iid case.

A tenth of the training images is public, with labels: every client trains on them first, then on its own rows, whose
classes are skewed (Dirichlet 0.1). Alone, it goes on with its rows; together, it also digests the consensus.
Networks of different architectures cannot be averaged: federated averaging of one architecture is a further number.
"""

from __future__ import annotations

import copy
from pathlib import Path

from torch import nn

from evidence._federated import averaged, federated
from evidence._shared import accuracy, fresh, images
from limbeck.data.images import DataPair
from limbeck.federated.payload import put, size
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.methods.federated.fedmd import FedMD
from limbeck.models.classifier import Classifier
from limbeck.models.tiny import mlp
from limbeck.run.evidence import Result

CLAIM = (
    "Clients with architectures of their own and skewed labels gain more than 20 points of test accuracy, on all "
    "classes, from sharing class scores on public images, over the same training without them."
)
ROUNDS = 10
SAME = {"population": 10, "split": "dirichlet-0.1", "participation": 1.0, "epochs": 5, "batch": 16, "lr": 0.05}
OWN = {"transfer_epochs": 25, "alignment": 64, "digest_lr": 0.5}
HIDDEN = ((64,), (32,), (48, 24), (96,), (64, 32))


def evidence(seed: int, data: Path | None = None) -> Result:
    """The mean accuracy of the clients' own networks on the whole test set."""
    pair = images(data)
    rest, public = pair.train.split(0.1, seed)
    private = DataPair(rest, pair.test)

    def network(*hidden: int) -> Classifier:
        return mlp(*hidden, shape=rest.shape, classes=rest.classes)

    def arm(passes: int) -> FedMD:
        models = fresh(seed, lambda: nn.ModuleList([network(*hidden) for hidden in HIDDEN]))
        return federated(
            FedMD, private, seed, ROUNDS, {**SAME, **OWN, "digest_epochs": passes},
            student=fresh(seed, lambda: network(64)), given={"public": public, "models": models},
        )  # fmt: skip

    def clients(method: FedMD) -> float:
        assert method.clients is not None and method.models is not None
        found = list[float]()
        for k, state in method.clients.state_dict().items():
            model = copy.deepcopy(method.models[int(k) % len(HIDDEN)])
            put(model, state, "model")
            found.append(accuracy(model, pair.test))
        return sum(found) / len(found)

    alone, together = arm(0), arm(5)
    average = averaged(FedAvg, private, seed, ROUNDS, SAME, student=fresh(seed, lambda: network(64)), last=1)
    sent = FedAvg(fresh(seed, lambda: network(64)), None).broadcast(0)
    return Result(
        metric="test accuracy of the clients' networks, mean, %",
        baseline=clients(alone),
        method=clients(together),
        higher_is_better=True,
        margin=20.0,
        versus="the same clients without a consensus",
        extra={
            "the server's student, which only digests, %": accuracy(together.student, pair.test),
            "FedAvg of one architecture, without the public images, %": average,
            "bytes a client sends in a round, FedMD": float(size({"scores": together.consensus}) + 4),
            "bytes a client sends in a round, FedAvg": float(size(sent) + 4),
        },
    )
