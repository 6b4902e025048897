"""Charts that are tables: a row an item, its marks on one scale, its numbers beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from limbeck.run.metric import ACCURACY, Metric
from limbeck.run.outcome import Gain
from limbeck.run.plots import Scale, Track, plain
from limbeck.run.words import Stat, span

__all__ = ["NAMES", "TOTAL", "Chart", "Row", "gain_chart", "stat_chart"]

TOTAL = "Mean"
NAMES = {"control": "Control", "method": "Distilled", "teacher": "Teacher"}


@dataclass(frozen=True)
class Row:
    """A row of a chart that is a table: its name, its marks, its numbers."""

    name: str
    track: Track
    text: str
    note: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Chart:
    """Rows on one scale."""

    rows: Sequence[Row]
    axis: Sequence[tuple[float, str]]


def gain_chart(gains: Sequence[tuple[str, Gain]], metric: Metric = ACCURACY) -> Chart:
    """Gains on one scale with zero in it, their intervals, and a dot for every seed."""
    held = [v for _, g in gains for v in (g.mean, g.low, g.high, *g.per_seed) if v is not None]
    scale = Scale.around(held, zero=True)
    rows = [
        Row(
            name,
            Track.of(scale, "method", mean=gain.mean, low=gain.low, high=gain.high, dots=_dots(gain.per_seed)),
            span(gain, metric=metric),
            strong=name == TOTAL,
        )
        for name, gain in gains
    ]
    return Chart(rows, scale.marks(plain))


def _dots(values: Sequence[float]) -> Sequence[float]:
    return values if len(values) > 1 else ()


def stat_chart(stats: Mapping[str, Stat], show: Callable[[float], str]) -> Chart:
    """A measure of the control's and the students' on one scale: the mean, and a dot for every seed."""
    scale = Scale.around([v for stat in stats.values() for v in stat.values])
    rows = [
        Row(NAMES[kind], Track.of(scale, kind, mean=stat.mean, dots=_dots(stat.values)), show(stat.mean))
        for kind, stat in stats.items()
    ]
    return Chart(rows, scale.marks(show, 3))
