"""Evidence for smooth and strong experts on digits: against MTT, one image a class, from as many experts.

Five experts of 6 epochs, 70 outer steps; MTT's experts are plain, these have momentum and weight decay at the same
effective step size and are held back early. All that the method has is on: the images' beginning, the inner
momentum, the disturbed start, the balance and the moments on the way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evidence._dataset import distilled, judged, sets
from limbeck.methods.dataset.ast import SmoothTrajectories
from limbeck.methods.dataset.mtt import MatchingTrajectories
from limbeck.models.synthetic import SyntheticSet
from limbeck.run.evidence import Result

CLAIM = "One image a class from smooth, strong experts trains better networks than one from plain experts (MTT)"
VALUES: dict[str, object] = {
    "per_class": 1, "steps": 10, "span": 2, "latest": 4, "rate": 0.05, "experts": 5, "expert_rate": 0.05,
    "expert_batch": 64,
}  # fmt: skip


def evidence(seed: int, data: Path | None = None) -> Result:
    """Three fresh networks each."""
    pair = sets(data)

    def judge(method: Any, more: dict[str, object]) -> float:
        made: SyntheticSet = distilled(method, pair.train, seed, steps=70, lr=0.03, values={**VALUES, **more})
        return judged(made, pair.test, seed)

    strong: dict[str, object] = {"rate": 0.005, "expert_rate": 0.01}
    return Result(
        metric="test accuracy of fresh networks, %",
        baseline=judge(MatchingTrajectories, {}),
        method=judge(SmoothTrajectories, strong),
        higher_is_better=True,
        versus="MTT with as many experts, images and steps",
    )
