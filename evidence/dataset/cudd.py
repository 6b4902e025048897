"""Evidence for CUDD on digits: three rounds of two images a class against six recovered at once (SRe2L).

Every image takes the same 150 steps from a real one, random for the baseline, and all are used with the same teacher's
labels of every crop. Beside them, random real images with such labels.
"""

from __future__ import annotations

from pathlib import Path

from evidence._dataset import distilled, judged, sets, subset
from evidence._recover import SHAKEN, brief, teacher
from limbeck.core.method import Method
from limbeck.methods.dataset.cda import CDA
from limbeck.methods.dataset.cudd import CUDD
from limbeck.models.synthetic import SyntheticSet
from limbeck.run.evidence import Result

CLAIM = "Rounds that begin with what students of the earlier ones get wrong make a better set than one round (SRe2L)"


def evidence(seed: int, data: Path | None = None) -> Result:
    """Two fresh networks each, trained on the set in the same way."""
    pair = sets(data)
    of = teacher(pair.train, seed)

    def made(method: type[Method], **values: object) -> SyntheticSet:
        held = {**SHAKEN, "per_class": 6, "r_bn": 0.3, **values}
        return distilled(method, pair.train, seed, steps=150, lr=0.02, teachers=(of,), values=held)

    def worth(held: SyntheticSet) -> float:
        return judged(brief(held), pair.test, seed, nets=2)

    rounds = made(CUDD)
    return Result(
        metric="test accuracy of fresh networks, %",
        baseline=worth(made(CDA, milestone=0.0, how="real")),
        method=worth(rounds),
        higher_is_better=True,
        versus="SRe2L from random real images, in one round",
        extra={
            "random real images, same labels": worth(subset(pair.train, 6, seed, rounds.use)),
        },
    )
