"""FedProx with 90 % stragglers: their unfinished work is kept, where FedAvg drops it.

The paper's setting of systems heterogeneity: half of 20 clients with skewed labels are asked for ten epochs, and nine
in ten of them manage fewer. Under FedAvg they do not answer in time. The further arm shows what the proximal term adds
to keeping their work; on digits it was nothing while this was built.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from evidence._federated import federated
from evidence._shared import accuracy, images
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.methods.federated.fedprox import FedProx
from limbeck.run.evidence import Result

CLAIM = (
    "Where nine clients in ten are stragglers and data are skewed, FedProx, which keeps their unfinished work, is at "
    "least "
    "10 points more accurate after as many rounds than FedAvg, which drops them."
)
ROUNDS, STRAGGLERS = 12, 0.9
SAME = {"population": 20, "split": "dirichlet-0.1", "participation": 0.5, "epochs": 10, "batch": 10, "lr": 0.05}


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same network, partition and rounds; mu = 0.1, and mu = 0 as a further arm."""
    pair = images(data)

    def too_late(client: int, number: int) -> None:
        drawn = torch.Generator().manual_seed(1_000_003 * seed + 1009 * number + client)
        if float(torch.rand((), generator=drawn)) < STRAGGLERS:
            raise TimeoutError

    logging.getLogger("limbeck.federated").setLevel(logging.ERROR)  # it says who is left out, a hundred times
    average = federated(FedAvg, pair, seed, ROUNDS, SAME, weather=too_late)
    arms = {
        mu: accuracy(
            federated(FedProx, pair, seed, ROUNDS, {**SAME, "mu": mu, "stragglers": STRAGGLERS}).student, pair.test
        )
        for mu in (0.0, 0.1)
    }
    return Result(
        metric="test accuracy of the shared model, %",
        baseline=accuracy(average.student, pair.test),
        method=arms[0.1],
        higher_is_better=True,
        margin=10.0,
        versus="FedAvg, which drops stragglers",
        extra={"without the proximal term (mu = 0), %": arms[0.0]},
    )
