"""FedJETs for clients that never trained: its gate chooses their experts by images alone, without labels.

Thirty clients with rows of two or three classes; eight of them are never there while the others train. FedAvg has
the same network, partition, rounds and epochs and gives every client its one model.
All who train are anchors: with fewer, the gate sent nearly everybody to the same two experts. While this was built it
was a point better than FedAvg on one seed and 20 worse on the other: the gate, which only FedAvg's weak features and
the reconstructed anchors teach, often chose the wrong experts.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from evidence._federated import federated
from evidence._shared import images
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.methods.federated.fedjets import FedJETs
from limbeck.run.evidence import Result

CLAIM = (
    "Clients that never trained are classified better by the experts that FedJETs' gate chooses from their images, "
    "without labels, than by FedAvg's model."
)
ROUNDS, NEW = 70, range(22, 30)
SAME = {"population": 30, "split": "shards-2", "participation": 0.2, "epochs": 2, "batch": 16, "lr": 0.1}
OWN = {"experts": 5, "best": 2, "common": 0.6, "anchors": 0.75, "beta": 10.0}


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same network, partition and rounds; accuracy over the test images of the eight newcomers."""
    pair = images(data)
    logging.getLogger("limbeck.federated").setLevel(logging.ERROR)  # it says in every round who is not there

    def newcomers(client: int, number: int) -> None:
        if client in NEW:
            raise ConnectionError

    def judged(method: Any) -> float:
        method.clients.grid.weather = lambda client, number: None
        asked = {k: method.broadcast(k) for k in NEW}
        found = [reply.payload for reply in method.clients.ask(asked, 0, task="evaluate").replies]
        return 100.0 * float(sum(p["correct"] for p in found) / sum(p["count"] for p in found))

    average = judged(federated(FedAvg, pair, seed, ROUNDS, SAME, weather=newcomers))
    mixture = judged(federated(FedJETs, pair, seed, ROUNDS, SAME | OWN, weather=newcomers))
    return Result(
        metric="test accuracy of clients that never trained, %",
        baseline=average,
        method=mixture,
        higher_is_better=True,
        versus="FedAvg's model",
    )
