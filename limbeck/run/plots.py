"""The charts of a report, drawn by hand.

Written out rather than drawn with matplotlib: each chart is a few kilobytes, takes its colours from the page's CSS
variables (one drawing for light, dark and print), keeps its text as text that grows on a phone, and needs no import.
Curves and the reliability diagram are SVG; everything with one row per item is a table whose cells hold a
:class:`Track`, so that its numbers can be read without seeing the marks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10, sqrt

from markupsafe import Markup, escape

from limbeck.run.metric import ACCURACY, Metric

__all__ = ["Scale", "Track", "bubbles", "curves", "mean_line", "pooled", "reliability", "ticks"]

Line = Sequence[tuple[float, float]]
POINTS = 240  # of a line; more cannot be seen


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, about so many."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** floor(log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = ceil(low / step - 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, floor(high / step + 1e-9) + 1)]


def plain(value: float) -> str:
    """A tick's number without trailing zeros, with a true minus."""
    return f"{value:,.4f}".rstrip("0").rstrip(".").replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Scale:
    """Values to per cent of a track's width, with room at both ends."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Sequence[float], *, zero: bool = False) -> Scale:
        """The scale that shows all values, and zero where that is asked for."""
        held = [*values, 0.0] if zero else values
        low, high = min(held), max(held)
        room = max(0.08 * (high - low), 1e-3)
        return cls(low - room, high + room)

    def at(self, value: float) -> float:
        return round(100.0 * (min(max(value, self.low), self.high) - self.low) / (self.high - self.low), 2)

    @property
    def zero(self) -> float | None:
        return self.at(0.0) if self.low < 0.0 < self.high else None

    def marks(self, show: Callable[[float], str], about: int = 4) -> list[tuple[float, str]]:
        """The axis: (per cent, what stands there)."""
        return [(self.at(tick), show(tick)) for tick in ticks(self.low, self.high, about)]


@dataclass(frozen=True)
class Track:
    """The marks of one row, in per cent: a bar from zero, an interval, a dot per seed, the mean."""

    kind: str  # method, control or teacher: the colour and the shape of its marks
    zero: float | None = None
    bar: tuple[float, float] | None = None  # left, width
    between: tuple[float, float] | None = None  # left, width
    dots: tuple[float, ...] = ()
    mean: float | None = None

    @classmethod
    def of(
        cls,
        scale: Scale,
        kind: str,
        *,
        mean: float | None = None,
        low: float | None = None,
        high: float | None = None,
        dots: Sequence[float] = (),
    ) -> Track:
        between = None
        if low is not None and high is not None:
            left = scale.at(low)
            between = left, round(scale.at(high) - left, 2)
        return cls(
            kind=kind,
            zero=scale.zero,
            between=between,
            dots=tuple(scale.at(dot) for dot in dots),
            mean=None if mean is None else scale.at(mean),
        )

    @classmethod
    def bar_of(cls, scale: Scale, kind: str, value: float) -> Track:
        start, end = sorted((scale.at(0.0), scale.at(value)))
        return cls(kind=kind, zero=scale.zero, bar=(start, round(end - start, 2)))


def _tag(name: str, text: str | Markup = "", /, **attributes: object) -> Markup:
    """One SVG element; everything is escaped. ``class_`` is class, ``_`` is a hyphen."""
    inside = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), f"{v:.4g}" if isinstance(v, float) else v)
        for key, v in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, inside, escape(text))


def _svg(key: str, size: tuple[int, int], title: str, desc: str, parts: Sequence[Markup]) -> Markup:
    named = _tag("title", title, id=f"{key}-title") + _tag("desc", desc, id=f"{key}-desc")
    return _tag(
        "svg",
        named + Markup("\n").join(parts),
        viewBox=f"0 0 {size[0]} {size[1]}",
        class_="square" if size[0] < 1.2 * size[1] else "wide",
        role="img",
        aria_labelledby=f"{key}-title",
        aria_describedby=f"{key}-desc",
    )


def mean_line(lines: Sequence[Line]) -> Line:
    """The mean of several seeds' lines at the steps that all of them have."""
    if not lines:
        return []
    by_step = [dict(line) for line in lines]
    shared = sorted(set(by_step[0]).intersection(*by_step[1:]))
    return [(step, sum(line[step] for line in by_step) / len(by_step)) for step in shared]


def _thin(line: Line) -> Line:
    """At most ``POINTS`` of a line, the last one always."""
    stride = ceil(len(line) / POINTS)
    return line if stride <= 1 else [*line[: len(line) - 1 : stride], line[-1]]


def focus(lines: Sequence[Line], teacher: float | None, highest: float | None = 1.0) -> tuple[float, float]:
    """The range to show: all of the last three quarters of training. Where it begins low, the first steps
    would otherwise press the difference that matters into a hair's breadth."""
    last = max((step for line in lines for step, _ in line), default=0.0)
    seen = [value for line in lines for step, value in line if step >= last / 4]
    seen += [] if teacher is None else [teacher]
    if not seen:
        return 0.0, 1.0
    low, high = min(seen), max(seen)
    room = max(0.08 * (high - low), 0.004)
    return max(0.0, low - room), high + room if highest is None else min(highest, high + room)


def curves(
    key: str,
    arms: Mapping[str, Sequence[Line]],
    teacher: float | None,
    title: str,
    desc: str,
    *,
    metric: Metric = ACCURACY,
) -> Markup:
    """The headline number over steps: a thin line per seed, the mean with markers, the teacher dashed.

    Args:
        key: unique in the page.
        arms: ``{"control": lines, "method": lines}``, a line per seed of (step, number).
        teacher: its number, if there is one.
        title, desc: for those who do not see the chart.
        metric: what the number is.
    """
    width, height, left, right, top, bottom = 560, 350, 62, 14, 12, 46
    low, high = focus([line for lines in arms.values() for line in lines], teacher, metric.highest)
    unit, sign = (100, " %") if metric.percent else (1, "")
    last = max((step for lines in arms.values() for line in lines for step, _ in line), default=1.0) or 1.0

    def x(step: float) -> float:
        return left + (width - left - right) * step / last

    def y(value: float) -> float:
        return top + (height - top - bottom) * (high - value) / (high - low)

    def path(line: Line, kind: str) -> Markup:
        drawn = "L".join(f"{x(s):.1f} {y(v):.1f}" for s, v in _thin(line))
        return _tag("path", d=f"M{drawn}", class_=kind)

    parts: list[Markup] = []
    for tick in ticks(unit * low, unit * high, 5):
        parts.append(_tag("path", d=f"M{left} {y(tick / unit):.1f}H{width - right}", class_="grid"))
        parts.append(_tag("text", f"{plain(tick)}{sign}", x=left - 8, y=round(y(tick / unit) + 4, 1), class_="end"))
    for tick in ticks(0, last, 4):
        where = "end" if x(tick) > width - right - 12 else "middle"
        parts.append(_tag("text", plain(tick), x=round(x(tick), 1), y=height - bottom + 20, class_=where))
    parts.append(_tag("text", "steps", x=(left + width - right) / 2, y=height - 6, class_="middle"))
    clip = f"{key}-clip"
    frame = _tag("rect", x=left, y=top - 6, width=width - left - right + 8, height=height - top - bottom + 6)
    parts.append(_tag("clipPath", frame, id=clip))
    drawn: list[Markup] = []
    if teacher is not None:
        drawn.append(_tag("path", d=f"M{left} {y(teacher):.1f}H{width - right}", class_="teacher"))
    for kind, lines in arms.items():
        mean = mean_line(lines)
        drawn += [path(line, f"{kind} seed") for line in lines if len(lines) > 1 and line]
        drawn += [path(mean, f"{kind} mean")] if mean else []
        stride = ceil(len(mean) / 10) or 1
        for step, value in mean[::-1][::stride]:
            drawn.append(_marker(kind, x(step), y(value), 4.0))
    parts.append(_tag("g", Markup("").join(drawn), clip_path=f"url(#{clip})"))
    parts.append(_tag("path", d=f"M{left} {height - bottom}H{width - right}", class_="axis"))
    return _svg(key, (width, height), title, desc, parts)


def _marker(kind: str, x: float, y: float, r: float) -> Markup:
    """A disc for the method, an open square for the control: told apart without colour."""
    if kind == "control":
        side = 1.8 * r
        return _tag("rect", x=x - side / 2, y=y - side / 2, width=side, height=side, class_="control mark")
    return _tag("circle", cx=x, cy=y, r=r, class_=f"{kind} mark")


Bins = Sequence[tuple[float, float, int]]


def pooled(seeds: Sequence[Bins], bins: int = 15) -> Bins:
    """The bins of several seeds as one: counts added, confidence and accuracy weighted by them."""
    sums: dict[int, list[float]] = {}
    for confidence, accuracy, count in (bin_ for seed in seeds for bin_ in seed):
        held = sums.setdefault(min(max(ceil(round(confidence * bins, 6)) - 1, 0), bins - 1), [0.0, 0.0, 0.0])
        for i, value in enumerate((confidence * count, accuracy * count, count)):
            held[i] += value
    return [(c / n, a / n, int(n)) for _, (c, a, n) in sorted(sums.items()) if n > 0]


def reliability(key: str, arms: Mapping[str, Bins], title: str, desc: str) -> Markup:
    """Accuracy against confidence, a mark per bin whose area grows with its count; on the diagonal all is well."""
    side, left, right, top, bottom = 400, 58, 12, 34, 46
    width, height = side + left + right, side + top + bottom

    def at(confidence: float, accuracy: float) -> tuple[float, float]:
        return left + side * confidence, top + side * (1 - accuracy)

    parts: list[Markup] = []
    for tick in (0, 20, 40, 60, 80, 100):
        x, y = at(tick / 100, tick / 100)
        parts.append(_tag("path", d=f"M{left} {y:.0f}H{left + side}M{x:.0f} {top}V{top + side}", class_="grid"))
        parts.append(_tag("text", f"{tick} %", x=left - 8, y=y + 4, class_="end"))
        where = "end" if tick == 100 else "middle"
        parts.append(_tag("text", f"{tick} %" if tick else "0", x=x, y=top + side + 20, class_=where))
    parts.append(_tag("text", "how sure it was", x=left + side / 2, y=height - 6, class_="middle"))
    parts.append(_tag("text", "how often it was right", x=left, y=16, class_="start"))
    parts.append(_tag("path", d=f"M{left} {top + side}L{left + side} {top}", class_="teacher"))
    most = max((count for bins in arms.values() for *_, count in bins), default=1)
    for kind, bins in arms.items():
        enough = [(c, a) for c, a, count in bins if count >= 0.005 * sum(n for *_, n in bins)]  # the rest is noise
        line = "L".join("{:.1f} {:.1f}".format(*at(c, a)) for c, a in enough)
        parts += [_tag("path", d=f"M{line}", class_=f"{kind} thin")] if line else []
        for confidence, accuracy, count in bins:
            parts.append(_marker(kind, *at(confidence, accuracy), 2.5 + 11 * sqrt(count / most)))
    return _svg(key, (width, height), title, desc, parts)


def bubbles(
    key: str, counts: Sequence[Sequence[int]], *, columns: Sequence[str], rows: Sequence[str], across: str, title: str,
    desc: str,
) -> Markup:  # fmt: skip
    """How many things are at each place of a grid, as discs whose area is the count.

    Args:
        key: unique in the page.
        counts: by column, then by row from above.
        columns, rows: what stands at them; of many columns every so many is named.
        across: what columns are.
        title, desc: for those who do not see the chart.
    """
    named = [name if len(name) < 14 else f"{name[:12]}…" for name in rows]
    width, left, right, top, bottom = 560, 30 + 7 * max(map(len, named)), 14, 8, 44
    cell = (width - left - right) / len(columns)
    step = min(max(cell, 20.0), 26.0)  # between rows
    height = round(top + step * len(rows) + bottom)
    most, largest = max((n for own in counts for n in own), default=1) or 1, 0.48 * min(cell, step)
    parts: list[Markup] = []
    for i, name in enumerate(named):
        y = top + step * (i + 0.5)
        parts.append(_tag("path", d=f"M{left} {y:.1f}H{width - right}", class_="grid"))
        parts.append(_tag("text", name, x=left - 8, y=round(y + 4, 1), class_="end"))
    for k, (name, own) in enumerate(zip(columns, counts, strict=True)):
        x = left + cell * (k + 0.5)
        if k % ceil(len(columns) / 12) == 0:
            parts.append(_tag("text", name, x=x, y=height - bottom + 18, class_="middle"))
        parts += [
            _tag("circle", cx=x, cy=top + step * (i + 0.5), r=max(1.8, largest * sqrt(n / most)), class_="method mark")
            for i, n in enumerate(own) if n
        ]  # fmt: skip
    parts.append(_tag("text", across, x=(left + width - right) / 2, y=height - 6, class_="middle"))
    return _svg(key, (width, height), title, desc, parts)
