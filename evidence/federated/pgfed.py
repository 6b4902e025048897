"""Evidence for PGFed on digits: ten clients of Dirichlet 0.3, half of them a round, a perceptron.

The baseline is the same with mu = 0: FedAvg in which every client is judged by the model it trained last. What is left
is what the others' linearised risks are worth. FedAvg's one model stands beside it.
"""

from __future__ import annotations

from pathlib import Path

from evidence._federated import federated, perceptron, personal
from evidence._shared import images
from limbeck.core.method import Method
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.methods.federated.pgfed import PGFed
from limbeck.run.evidence import Result

CLAIM = "Shares of the other clients' linearised risks make personal models better than each client's own risk does"
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
        method=made(PGFed, mu=0.2, lam=0.05),
        higher_is_better=True,
        versus="FedAvg with each client's own last model (mu = 0)",
        extra={"FedAvg": made(FedAvg), "PGFedMo": made(PGFed, mu=0.2, lam=0.05, beta=0.5)},
    )
