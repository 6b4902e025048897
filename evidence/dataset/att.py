"""Evidence for automatic trajectories on digits: more steps than the experts' way is worth, one image a class.

Up to 24 steps on the synthetic images at a first step size of 0.1 for one epoch of five experts, 60 outer steps. MTT
matches the last step, automatic trajectories the nearest, without a moving average of the images, so that nothing but
the choice differs. Both are used with the step sizes that they have learnt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evidence._dataset import distilled, judged, sets
from limbeck.methods.dataset.att import AutomaticTrajectories
from limbeck.methods.dataset.mtt import MatchingTrajectories
from limbeck.models.synthetic import SyntheticSet
from limbeck.run.evidence import Result

CLAIM = "Where many steps are allowed, matching the nearest one makes better images than matching the last (MTT)"
VALUES: dict[str, object] = {
    "per_class": 1, "steps": 24, "span": 1, "latest": 4, "rate": 0.1, "experts": 5, "expert_rate": 0.05,
    "expert_batch": 64,
}  # fmt: skip


def evidence(seed: int, data: Path | None = None) -> Result:
    """Three fresh networks each."""
    pair = sets(data)

    def made(method: Any, more: dict[str, object]) -> SyntheticSet:
        return distilled(method, pair.train, seed, steps=60, lr=0.03, values={**VALUES, **more})

    last, nearest = made(MatchingTrajectories, {}), made(AutomaticTrajectories, {"decay": 0.0})
    return Result(
        metric="test accuracy of fresh networks, %",
        baseline=judged(last, pair.test, seed),
        method=judged(nearest, pair.test, seed),
        higher_is_better=True,
        versus="MTT with the same number of steps",
    )
