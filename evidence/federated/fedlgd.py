"""FedLGD against federated averaging on the clients' virtual images alone.

Eight clients with skewed classes distil five virtual images of each of their classes. Without the server's images there
is nothing to align to and no refresh: that is FedAvg on the virtual images of the warm-up.
"""

from __future__ import annotations

from pathlib import Path

from evidence._federated import federated
from evidence._shared import accuracy, fresh, images
from limbeck.methods.federated.fedlgd import FedLGD
from limbeck.models.tiny import convnet
from limbeck.run.evidence import Result

CLAIM = (
    "Virtual images that are refreshed with the shared model, and the server's own that features are aligned to, make "
    "the shared model at least a point more accurate than federated averaging on the clients' virtual images alone."
)
ROUNDS = 30
SAME = {
    "population": 8, "split": "dirichlet-0.3", "participation": 1.0, "per_class": 5, "warmup": 60, "epochs": 1,
    "batch": 16, "lr": 0.05, "augment": "shift", "lr_image": 1.0,
}  # fmt: skip
ARMS = {
    "alone": {"per_class_global": 0, "refreshes": 0},
    "FedLGD": {"per_class_global": 5, "refreshes": 3, "local_steps": 10, "global_steps": 30, "lam": 1.0},
}


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same network, partition, warm-up and rounds."""
    pair = images(data)

    def reached(arm: str) -> float:
        student = fresh(seed, lambda: convnet(16, 2, shape=pair.train.shape, classes=pair.train.classes))
        return accuracy(federated(FedLGD, pair, seed, ROUNDS, SAME | ARMS[arm], student=student).student, pair.test)

    found = {arm: reached(arm) for arm in ARMS}
    return Result(
        metric="test accuracy of the shared model, %",
        baseline=found["alone"],
        method=found["FedLGD"],
        higher_is_better=True,
        margin=1.0,
        versus="federated averaging on the clients' virtual images",
    )
