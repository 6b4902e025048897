"""Evidence for matching training trajectories on digits: one synthetic image a class against a random real one.

Five experts of 6 epochs, 100 outer steps. The set is used with the step size that it has learnt, the control with the
usual 0.05, augmented alike; beside it, the set at that step size too.
"""

from __future__ import annotations

from pathlib import Path

from evidence._dataset import distilled, judged, sets, subset
from limbeck.methods.dataset.mtt import MatchingTrajectories
from limbeck.models.use import Descent
from limbeck.run.evidence import Result

CLAIM = "Networks trained on one image a class that leads where experts went are better than on a random real one"
VALUES: dict[str, object] = {
    "per_class": 1, "steps": 10, "span": 2, "latest": 4, "rate": 0.05, "experts": 5, "expert_rate": 0.05,
    "expert_batch": 64,
}  # fmt: skip


def evidence(seed: int, data: Path | None = None) -> Result:
    """Three fresh networks each."""
    pair = sets(data)
    made = distilled(MatchingTrajectories, pair.train, seed, steps=100, lr=0.03, values=VALUES)
    plain = Descent(augment="shift+rotate")
    assert made.rates is not None
    return Result(
        metric="test accuracy of fresh networks, %",
        baseline=judged(subset(pair.train, 1, seed, plain), pair.test, seed),
        method=judged(made, pair.test, seed),
        higher_is_better=True,
        versus="a random real image a class, with the same augmentation",
        extra={"at the control's step size": judged(made, pair.test, seed, use=plain)},
    )
