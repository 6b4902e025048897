"""FedPerfix against sharing everything and against keeping the head alone.

Eight clients with rows of about three classes, a small transformer from scratch (the paper begins with a trained one).
With s = 0 the plugins are silent: that is a shared body with local heads. The baseline is the better of the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evidence._federated import federated, personal
from evidence._shared import fresh, images
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.methods.federated.fedperfix import FedPerfix
from limbeck.models.tiny import vit
from limbeck.run.evidence import Result

CLAIM = (
    "Plugins beside the attention that stay at their clients, with the heads, make clients' transformers more accurate "
    "on their own data than FedAvg, and than heads alone that stay."
)
ROUNDS = 14
SAME = {
    "population": 8, "split": "shards-3", "participation": 0.5, "epochs": 3, "batch": 16, "lr": 0.02, "momentum": 0.9,
}  # fmt: skip
OWN = {"middle": 64}


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same first weights, partition and rounds."""
    pair = images(data)

    def reached(cls: Any, values: dict[str, Any]) -> float:
        student = fresh(seed, lambda: vit(32, 2, shape=pair.train.shape, classes=pair.train.classes))
        return personal(federated(cls, pair, seed, ROUNDS, SAME | values, student=student))

    everything, heads = reached(FedAvg, {}), reached(FedPerfix, OWN | {"scale": 0.0})
    return Result(
        metric="accuracy of the clients' own models on their own test images, %",
        baseline=max(everything, heads),
        method=reached(FedPerfix, OWN | {"scale": 0.8}),
        higher_is_better=True,
        versus="the better of FedAvg and heads alone that stay",
        extra={"FedAvg, %": everything, "heads alone, %": heads},
    )
