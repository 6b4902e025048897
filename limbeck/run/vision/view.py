"""What a report shows of classifiers alone: every class, with and without the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from limbeck.run.outcome import Evaluation, Outcome
from limbeck.run.plots import Scale, Track
from limbeck.run.words import counted, is_control, percent, points

__all__ = ["ClassRow", "classes"]

MANY = 24  # classes; of more, the ends are shown
EXTREMES = 10


@dataclass(frozen=True)
class ClassRow:
    """One class: its images, both accuracies and the difference in points."""

    name: str
    count: int
    control: str
    method: str
    gain: float
    text: str
    track: Track


def classes(o: Outcome) -> dict[str, object] | None:
    """The classes by their gain; ``None`` for a control, and for a run on something else."""
    if is_control(o) or not o.classes:
        return None
    held = [[arm.evaluation for arm in arms if isinstance(arm.evaluation, Evaluation)]
            for arms in (o.control, o.distilled)]  # fmt: skip
    if not held[1]:
        return None
    counts = held[1][0].per_class_count
    control, method = ([fmean(v) for v in zip(*(found.per_class for found in arm), strict=True)] for arm in held)
    known = [i for i, count in enumerate(counts) if count > 0]
    gains = {i: 100 * (method[i] - control[i]) for i in known}
    scale = Scale.around(list(gains.values()) or [0.0], zero=True)
    rows = [
        ClassRow(
            o.classes[i],
            counts[i],
            percent(control[i]),
            percent(method[i]),
            gains[i],
            points(gains[i], digits=1),
            Track.bar_of(scale, "method" if gains[i] >= 0 else "control", gains[i]),
        )
        for i in sorted(known, key=lambda i: (-gains[i], i))
    ]
    if not rows:
        return None
    many = len(rows) > MANY
    better, worse = sum(r.gain > 0.05 for r in rows), sum(r.gain < -0.05 for r in rows)
    same = len(rows) - better - worse
    least = min(counts[i] for i in known)
    moved = [f"{n:,} {did}" for n, did in ((better, "gained"), (worse, "lost"), (same, "stayed as they were")) if n]
    words = (
        f"Of {counted(len(rows), 'class')}, {' and '.join([', '.join(moved[:-1]), moved[-1]] if moved[1:] else moved)}."
    )
    note = f"A class has at least {counted(least, 'held-out image')}; one image is up to {100 / least:.1f} points there"
    return {
        "words": words,
        "note": f"{note}, so single classes are noisy.",
        "best": rows[:EXTREMES] if many else rows,
        "worst": rows[-EXTREMES:] if many else [],
        "between": len(rows) - 2 * EXTREMES if many else 0,
        "all": rows if many else [],
        "empty": [o.classes[i] for i, count in enumerate(counts) if count == 0],
    }
