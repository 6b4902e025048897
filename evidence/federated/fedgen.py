"""FedGen against federated averaging at equal rounds: 20 clients, 20 % a round, labels by Dirichlet 0.1.

Clients learn ten times as fast as in the released code, with weights a tenth and a tenth of its a = b = 10, because
there are 40 rounds instead of 200. A number is the mean over the last ten rounds.
"""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._federated import averaged
from evidence._shared import fresh, images
from limbeck.federated.payload import size
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.methods.federated.fedgen import FedGen
from limbeck.models.classifier import Classifier
from limbeck.models.tiny import mlp
from limbeck.run.evidence import Result

CLAIM = (
    "With skewed labels, clients that are taught by a generator of features give a more accurate shared model than "
    "federated averaging in as many rounds."
)
ROUNDS = 40
SAME = {"population": 20, "split": "dirichlet-0.1", "participation": 0.2, "epochs": 5, "batch": 16, "lr": 0.1}
OWN = {"alpha": 1.0, "beta": 1.0}


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same perceptron, partition and rounds."""
    pair = images(data)

    def student() -> Classifier:
        return fresh(seed, lambda: mlp(64, 32, shape=pair.train.shape, classes=pair.train.classes))

    average = averaged(FedAvg, pair, seed, ROUNDS, SAME, student=student())
    taught = averaged(FedGen, pair, seed, ROUNDS, {**SAME, **OWN}, student=student())
    with torch.random.fork_rng(devices=[]):
        down = size(FedGen(student(), None).broadcast(0))
    return Result(
        metric="test accuracy of the shared model, mean of the last ten rounds, %",
        baseline=average,
        method=taught,
        higher_is_better=True,
        versus="FedAvg",
        extra={
            "bytes sent to a client in a round, FedAvg": float(size(FedAvg(student(), None).broadcast(0))),
            "bytes sent to a client in a round, FedGen": float(down),
        },
    )
