"""Evidence for CV-DD on digits: a committee of two out of three networks against one (SRe2L++), three images a class.

The networks have three stages each, of other widths; the baseline's is the first of them. It takes as many steps,
begins with real images and has labels by the statistics of the batch too. Beside them, the committee's images with
labels by the statistics that its batch norms have kept, and as many random real images with the committee's labels.
"""

from __future__ import annotations

import copy
from pathlib import Path

from evidence._dataset import distilled, judged, sets, subset
from evidence._recover import SHAKEN, brief, teacher
from limbeck.methods.dataset.cv_dd import CVDD
from limbeck.models.classifier import Classifier
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.use import TeacherLabels
from limbeck.run.evidence import Result

CLAIM = "Images that a committee of networks recovers and labels teach more than those of one network (SRe2L++)"
KINDS = ("cnn-16-32-32", "cnn-12-24-48", "cnn-24-24-24")


def evidence(seed: int, data: Path | None = None) -> Result:
    """Two fresh networks each, trained on the set in its way."""
    pair = sets(data)
    members = tuple(teacher(pair.train, seed, kind) for kind in KINDS)

    def made(teachers: tuple[Classifier, ...]) -> SyntheticSet:
        values: dict[str, object] = {**SHAKEN, "per_class": 3, "r_bn": 0.3}
        return distilled(CVDD, pair.train, seed, steps=150, lr=0.02, teachers=teachers, values=values)

    def worth(held: SyntheticSet) -> float:
        return judged(brief(held), pair.test, seed, nets=2)

    committee = made(members)
    kept = copy.copy(committee.use)
    assert isinstance(kept, TeacherLabels)
    kept.statistics, kept.steps = "kept", 200
    return Result(
        metric="test accuracy of fresh networks, %",
        baseline=worth(made(members[:1])),
        method=worth(committee),
        higher_is_better=True,
        versus="SRe2L++ with the first of the networks",
        extra={
            "labels by kept statistics": judged(committee, pair.test, seed, nets=2, use=kept),
            "random real images, same labels": worth(subset(pair.train, 3, seed, committee.use)),
        },
    )
