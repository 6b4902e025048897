"""Evidence for flat trajectories on digits: against MTT, one image a class, from experts of the same number and length.

Five experts of 6 epochs, 70 outer steps, both used with the step sizes that they have learnt. Flat experts take two
gradients a step. Beside it, the accumulated error, which is what the paper minimises: a student that is trained on the
set through both halves of an expert's way without being put back, its squared distance from the expert's end over
that of the start, a mean over the experts of each.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from evidence._dataset import distilled, judged, net, sets
from limbeck.data.images import ImageSet
from limbeck.methods.dataset._trajectories import Segment, changed, gap, minibatches
from limbeck.methods.dataset.ftd import FlatTrajectories
from limbeck.methods.dataset.mtt import MatchingTrajectories
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.trajectories import Flat, Sgd, Training, TrajectoryBank
from limbeck.models.unroll import start, step
from limbeck.run.evidence import Result

CLAIM = "One image a class from flat experts trains better networks than one from plain experts (MTT)"
VALUES: dict[str, object] = {
    "per_class": 1, "steps": 10, "span": 2, "latest": 4, "rate": 0.05, "experts": 5, "expert_rate": 0.05,
    "expert_batch": 64,
}  # fmt: skip


def accumulated(made: SyntheticSet, data: ImageSet, seed: int, training: Training) -> float:
    """How far from an expert's end a student is that was never put back on its way, 1 at the start."""
    bank = TrajectoryBank(net(data, seed), data, experts=3, length=4, training=training, seed=1000 + seed)
    change, found = changed("shift+rotate", data.shape), list[float]()
    assert made.rates is not None
    for k in range(bank.experts):
        state = start(bank.at(k, 0))
        for each in minibatches(made(), made.y, made.rates[0], size=100, steps=20, change=change):
            state = state._replace(theta={n: p.detach().requires_grad_() for n, p in state.theta.items()})
            state = step(bank.net, state, each, graph=False)
        found.append(gap(state.theta, Segment(k, 0, bank.at(k, 0), bank.at(k, 4))).item())
    return fmean(found)


def evidence(seed: int, data: Path | None = None) -> Result:
    """Three fresh networks each."""
    pair = sets(data)

    def made(method: Any, more: dict[str, object]) -> SyntheticSet:
        return distilled(method, pair.train, seed, steps=70, lr=0.03, values={**VALUES, **more})

    plain = made(MatchingTrajectories, {})
    flat = made(FlatTrajectories, {"rho": 0.05, "alpha": 0.3, "decay": 0.95})
    return Result(
        metric="test accuracy of fresh networks, %",
        baseline=judged(plain, pair.test, seed),
        method=judged(flat, pair.test, seed),
        higher_is_better=True,
        versus="MTT with as many experts, images and steps",
        extra={
            "accumulated error": accumulated(flat, pair.train, seed, Flat(0.05, 0.05, 0.3, 64)),
            "accumulated error, MTT": accumulated(plain, pair.train, seed, Sgd(0.05, batch=64)),
        },
    )
