"""Evidence for APFL on digits: ten clients with two shards of the sorted classes each, half of them a round.

The network is a perceptron, without batch norm, as in the paper's convex and small experiments. Judged are personal
models, on every client's share of the test set, against FedAvg's one model in as many rounds; training alone (alpha 1)
stands beside it, and the clients' mean alpha with skewed and with equal shares, which should be larger with the former.
"""

from __future__ import annotations

from pathlib import Path

from evidence._federated import federated, perceptron, personal
from evidence._shared import images
from limbeck.core.method import Method
from limbeck.methods.federated.apfl import APFL
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.run.evidence import Result

CLAIM = (
    "Where clients see few classes, a learnt mixture of a private and the shared model is better than the shared one"
)
ROUNDS = 30


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same network, clients, rounds and traffic."""
    pair = images(data)

    def made(cls: type[Method], split: str = "shards-2", **values: float) -> Method:
        given = {"population": 10, "participation": 0.5, "lr": 0.1, "split": split, **values}
        return federated(cls, pair, seed, ROUNDS, given, student=perceptron(pair, seed))

    def alpha(method: Method) -> float:
        held = [float(state["alpha"]) for state in method.clients.state_dict().values() if state]
        return sum(held) / len(held)

    mixed, equal = made(APFL), made(APFL, "iid")
    return Result(
        metric="personal accuracy, %",
        baseline=personal(made(FedAvg)),
        method=personal(mixed),
        higher_is_better=True,
        versus="FedAvg's shared model, in as many rounds with as many bytes",
        extra={
            "training alone": personal(made(APFL, alpha=1.0, lr_alpha=0.0)),
            "mean alpha": alpha(mixed),
            "mean alpha with equal shares": alpha(equal),
        },
    )
