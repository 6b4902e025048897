"""Evidence for DREAM on digits: one image a class, by the gradients of representative real images or of random ones.

Both match gradients for 40 steps. The random arm is IDC without its tiles: random real batches, and random real images
to begin with. Beside it, random batches from DREAM's beginning, which shows what the beginning does alone.
"""

from __future__ import annotations

from pathlib import Path

from evidence._dataset import distilled, judged, sets, subset
from limbeck.methods.dataset.dream import Dream
from limbeck.run.evidence import Result

CLAIM = "Beginning with and matching representative real images gives a better set than random ones in as many steps"


def evidence(seed: int, data: Path | None = None) -> Result:
    """Three fresh networks each, trained on the set in the same way."""
    pair = sets(data)

    def made(sampling: str, how: str) -> float:
        values: dict[str, object] = {
            "per_class": 1, "factor": 1, "clusters": 32, "batch": 32, "inner": 50, "sampling": sampling, "how": how,
        }  # fmt: skip
        return judged(distilled(Dream, pair.train, seed, steps=40, values=values), pair.test, seed)

    return Result(
        metric="test accuracy of fresh networks, %",
        baseline=made("random", "real"),
        method=made("representative", "representative"),
        higher_is_better=True,
        versus="gradient matching with random real images, from random real images",
        extra={
            "random batches, from representatives": made("random", "representative"),
            "a random real image a class": judged(subset(pair.train, 1, seed), pair.test, seed),
        },
    )
