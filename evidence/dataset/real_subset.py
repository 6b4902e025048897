"""Evidence for the control: a random subset is worth what its size is.

It claims nothing but that more of it is better; what a method's set is worth stands in the method's own evidence.
"""

from __future__ import annotations

from pathlib import Path

from evidence._dataset import judged, sets, subset
from limbeck.run.evidence import Result

CLAIM = "Ten random images a class train better networks than one"


def evidence(seed: int, data: Path | None = None) -> Result:
    """Three fresh networks each."""
    pair = sets(data)
    return Result(
        metric="test accuracy of fresh networks, %",
        baseline=judged(subset(pair.train, 1, seed), pair.test, seed),
        method=judged(subset(pair.train, 10, seed), pair.test, seed),
        higher_is_better=True,
        versus="one random image a class",
    )
