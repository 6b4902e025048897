"""Rounds until a target accuracy: federated averaging against FedSGD, the paper's own comparison (its table 2).

The paper's two-layer perceptron on evenly shared digits; both arms have the learning rate that was best for them on the
building seeds. The paper reports 10 to 100 times fewer rounds with 600 rows a client; a client has 54 here.

A second look. The first had one partition and one network a seed: FedAvg took 4 to 7 whole rounds, so that a round more
or less is a quarter of the answer, and the gain of 0.85 [0.68, 1.02] in log10 did not settle whether it is above
log10(5) = 0.70. This one takes the mean over four partitions and networks a seed; nothing else is changed.
"""

from __future__ import annotations

import math
from pathlib import Path
from statistics import mean

from evidence._federated import federated
from evidence._shared import accuracy, fresh, images
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.models.tiny import mlp
from limbeck.run.evidence import Result

CLAIM = (
    "Federated averaging reaches 93 % in less than a fifth of the rounds that FedSGD needs, on evenly shared digits."
)
TARGET, MOST, DRAWS = 93.0, 150, 4
SAME = {"population": 20, "split": "iid", "participation": 0.2}
ARMS = {"FedSGD": {"epochs": 1, "batch": 10_000, "lr": 0.6}, "FedAvg": {"epochs": 20, "batch": 10, "lr": 0.1}}


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same networks, partitions and rounds; an arm that has not arrived after 150 rounds counts as 150."""
    pair = images(data)

    def rounds(arm: str, draw: int) -> int:
        taken = 0

        def arrived(method: FedAvg) -> bool:
            nonlocal taken
            taken += 1
            return accuracy(method.student, pair.test) >= TARGET

        student = fresh(draw, lambda: mlp(200, 200, shape=pair.train.shape, classes=pair.train.classes))
        federated(FedAvg, pair, draw, MOST, {**SAME, **ARMS[arm]}, student=student, until=arrived)
        return taken

    found = {arm: [rounds(arm, 1000 * seed + k) for k in range(DRAWS)] for arm in ARMS}
    baseline, method = (mean(math.log10(n) for n in found[arm]) for arm in ("FedSGD", "FedAvg"))
    return Result(
        metric=f"rounds until {TARGET:g} % test accuracy, log10",
        baseline=baseline,
        method=method,
        higher_is_better=False,
        margin=math.log10(5),
        versus="FedSGD: one step on all rows of a client",
        extra={f"rounds of {arm}": mean(taken) for arm, taken in found.items()},
    )
