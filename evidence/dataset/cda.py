"""Evidence for CDA on digits: the curriculum of crops against SRe2L's constant ones, an image a class from noise.

All sets are made by as many steps from the same teacher and used with its labels of every crop; three sets of each kind
are made, because they differ by chance. Beside them, random real images with the same labels, which recovered ones do
not reach on digits: the paper compares with methods, not with real images that are labelled alike. On building seeds
the curriculum made no difference at five images a class.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from evidence._dataset import distilled, judged, sets, subset
from evidence._recover import SHAKEN, brief, teacher
from limbeck.methods.dataset.cda import CDA
from limbeck.models.synthetic import SyntheticSet
from limbeck.run.evidence import Result

CLAIM = "Crops that begin with the whole image and shrink make a better set than crops of all sizes throughout (SRe2L)"


def evidence(seed: int, data: Path | None = None) -> Result:
    """Three sets each, a fresh network a set, trained on it in the same way."""
    pair = sets(data)
    of = teacher(pair.train, seed)

    def made(number: int, milestone: float) -> SyntheticSet:
        values: dict[str, object] = {**SHAKEN, "per_class": 1, "r_bn": 0.3, "milestone": milestone}
        return distilled(CDA, pair.train, 10 * seed + number, steps=300, lr=0.03, teachers=(of,), values=values)

    def worth(held: Iterable[SyntheticSet]) -> float:
        return fmean(judged(brief(one), pair.test, seed, nets=1) for one in held)

    curriculum = [made(k, 1.0) for k in range(3)]
    return Result(
        metric="test accuracy of fresh networks, %",
        baseline=worth(made(k, 0.0) for k in range(3)),
        method=worth(curriculum),
        higher_is_better=True,
        versus="SRe2L: the same steps with crops of all sizes throughout",
        extra={
            "random real images, same labels": worth(
                subset(pair.train, 1, 10 * seed + k, curriculum[0].use) for k in range(3)
            )
        },
    )
