"""Evidence for progressive distillation on digits: four images a class in two stages against four at once (MTT).

As many outer steps in all, 80, and as many steps on the set, 300, half of them on the first half of it. Five experts a
stage. Beside it, the union of the stages used as if it were made at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evidence._dataset import distilled, judged, sets
from limbeck.methods.dataset.mtt import MatchingTrajectories
from limbeck.methods.dataset.pdd import Progressive
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.use import Descent
from limbeck.run.evidence import Result

CLAIM = (
    "Four images a class that were made and are used in two stages train better networks than four made at once (MTT)"
)
VALUES: dict[str, object] = {
    "per_class": 4, "steps": 10, "span": 2, "latest": 4, "rate": 0.05, "experts": 5, "expert_rate": 0.05,
    "expert_batch": 64,
}  # fmt: skip


def evidence(seed: int, data: Path | None = None) -> Result:
    """Three fresh networks each."""
    pair = sets(data)

    def made(method: Any, more: dict[str, object]) -> SyntheticSet:
        return distilled(method, pair.train, seed, steps=80, lr=0.03, values={**VALUES, **more})

    once, staged = made(MatchingTrajectories, {}), made(Progressive, {"stages": 2})
    plain = Descent(augment="shift+rotate", own_rate=True)
    return Result(
        metric="test accuracy of fresh networks, %",
        baseline=judged(once, pair.test, seed),
        method=judged(staged, pair.test, seed),
        higher_is_better=True,
        versus="MTT with as many images and steps",
        extra={"its images all at once": judged(staged, pair.test, seed, use=plain)},
    )
