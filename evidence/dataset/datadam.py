"""Evidence for DataDAM on digits: one synthetic image a class against a random real one, used alike.

Beside it, ten a class, and distribution matching alone (no attention). On 8x8 digits the attention maps of two stages
have 16 and 4 places, so that little can be expected of them beyond the features.
"""

from __future__ import annotations

from pathlib import Path

from evidence._dataset import distilled, judged, sets, subset
from limbeck.methods.dataset.datadam import DataDAM
from limbeck.run.evidence import Result

CLAIM = "Networks trained on one image a class that matches attention and features are better than on a random real one"


def evidence(seed: int, data: Path | None = None) -> Result:
    """Three fresh networks each, trained on the set in the same way."""
    pair = sets(data)

    def made(per_class: int, attention: float = 1.0) -> float:
        values: dict[str, object] = {"per_class": per_class, "attention": attention}
        found = distilled(DataDAM, pair.train, seed, steps=300, values=values)
        return judged(found, pair.test, seed)

    return Result(
        metric="test accuracy of fresh networks, %",
        baseline=judged(subset(pair.train, 1, seed), pair.test, seed),
        method=made(1),
        higher_is_better=True,
        versus="a random real image a class, with the same augmentation",
        extra={
            "distribution matching": made(1, 0.0),
            "10 a class": made(10),
            "10 a class, random": judged(subset(pair.train, 10, seed), pair.test, seed),
        },
    )
