"""Evidence for Self-FL on digits: ten clients of Dirichlet 0.3, half of them a round, a perceptron.

The baseline is FedAvg in which every client is judged by the model it trained last, for two epochs a round. Self-FL
takes at most 14 local steps, about as many. FedAvg's one model stands beside it.
"""

from __future__ import annotations

from pathlib import Path

from evidence._federated import federated, perceptron, personal
from evidence._shared import images
from limbeck.core.method import Method
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.methods.federated.pgfed import PGFed
from limbeck.methods.federated.self_fl import SelfFL
from limbeck.run.evidence import Result

CLAIM = "Local steps and weights by uncertainty make better personal models than FedAvg with local training"
ROUNDS = 30


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same network, clients and rounds."""
    pair = images(data)

    def made(cls: type[Method], **values: float) -> float:
        given = {"population": 10, "participation": 0.5, "lr": 0.1, "split": "dirichlet-0.3", **values}
        return personal(federated(cls, pair, seed, ROUNDS, given, student=perceptron(pair, seed)))

    return Result(
        metric="personal accuracy, %",
        baseline=made(PGFed, mu=0.0),
        method=made(SelfFL, most=14),
        higher_is_better=True,
        versus="FedAvg with each client's own last model",
        extra={"FedAvg": made(FedAvg)},
    )
