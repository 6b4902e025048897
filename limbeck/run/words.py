"""A run's numbers in plain words. Text for people: terminals, reports, model cards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from limbeck.run.metric import ACCURACY, BITS, Metric
from limbeck.run.outcome import Evaluation, Gain, MadeSet, Outcome, SampleEvaluation, interval

__all__ = ["Stat", "direction", "over_seeds", "percent", "points", "quantity", "sentence", "share"]


CONTROLS = ("supervised", "sft", "denoising", "real_subset", "fedavg")


@dataclass(frozen=True)
class Stat:
    """A number over seeds; without an interval when there is one seed."""

    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]


def over_seeds(values: Sequence[float | None]) -> Stat | None:
    """Mean and 95 % interval of a number, or ``None`` where it was not measured for every seed."""
    known = tuple(v for v in values if v is not None)
    if not known or len(known) < len(values):
        return None
    found = interval(known)
    return Stat(found[0], found[1], found[2], known) if found else Stat(known[0], None, None, known)


def percent(fraction: float, digits: int = 1) -> str:
    """``0.9412`` -> ``94.1 %``."""
    return f"{100 * fraction:.{digits}f} %"


def points(value: float, *, sign: bool = True, digits: int | None = None, metric: Metric = ACCURACY) -> str:
    """A gain with its sign, in points of accuracy (``+1.8``) or another metric's unit. What rounds to zero has none."""
    shown = f"{value:+.{metric.gain_digits([value]) if digits is None else digits}f}"
    shown = shown[1:] if float(shown) == 0 else shown
    return shown if sign else shown.lstrip("+-")


def span(gain: Gain, *, sign: bool = True, metric: Metric = ACCURACY) -> str:
    """A gain and its interval: ``+1.8 [+1.1, +2.5]``."""
    if gain.low is None or gain.high is None:
        return points(gain.mean, sign=sign, metric=metric)
    digits = metric.gain_digits([gain.mean, gain.low, gain.high])
    mean, low, high = (points(v, digits=digits) for v in (gain.mean, gain.low, gain.high))
    text = f"{mean} [{low}, {high}]"
    return text if sign else text.replace("+", "").replace("-", "")


def quantity(value: float) -> str:
    """``272474`` -> ``272 k``; three digits and a unit prefix."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{unit}" if abs(value) < 999.5 * size else f"{value / size:,.0f}{unit}"
    return f"{value:.3g}"


def share(part: float, whole: float) -> str:
    """``9 %``, ``0.4 %`` or ``2.3 times``: a part of a whole, from far below it to above it."""
    if whole <= 0:
        return "unknown"
    ratio = part / whole
    if ratio >= 1.995:
        return f"{ratio:.2g} times" if ratio < 10 else f"{ratio:,.0f} times"
    if ratio < 0.0005:
        return "less than 0.1 %"
    return percent(ratio, 0 if ratio >= 0.00995 else 1)


def duration(seconds: float) -> str:
    """``0.4 s``, ``48 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def latency(ms: float) -> str:
    """``1.27`` -> ``1.27 ms``, ``0.058`` -> ``58 µs``."""
    return f"{ms:.3g} ms" if ms >= 0.9995 else f"{1e3 * ms:.3g} µs"


def counted(number: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``, ``1,000 classes``."""
    ending = "es" if noun.endswith(("s", "x", "ch")) else "s"
    return f"{number:,} {noun}{'' if number == 1 else ending}"


def is_control(outcome: Outcome) -> bool:
    """Whether the method is a control itself: it learns from no teacher, or makes a set of real images."""
    return outcome.method in CONTROLS


def direction(gain: Gain) -> Literal["gain", "loss", "unclear", "single"]:
    """What the seeds say: ``unclear`` when the 95 % interval holds 0, ``single`` when one seed gives no interval."""
    if gain.low is None or gain.high is None:
        return "single"
    return "gain" if gain.low > 0 else "loss" if gain.high < 0 else "unclear"


def made_set(outcome: Outcome) -> MadeSet | None:
    """The set that the first seed made; ``None`` for a run that makes a model."""
    found = outcome.distilled[0].evaluation
    return found.made if isinstance(found, Evaluation) else None


def in_rounds(outcome: Outcome) -> bool:
    """Whether the data stayed with clients."""
    return outcome.card.get("family") == "federated"


def subject(outcome: Outcome) -> str:
    """Who did what the sentence says."""
    made = made_set(outcome)
    return "The student" if made is None else f"Networks trained on {counted(made.stored, 'distilled image')}"


def without(outcome: Outcome) -> str:
    """What the control is."""
    if in_rounds(outcome):
        return "federated averaging in as many rounds"
    if made_set(outcome) is not None:
        return "those trained alike on as many random real ones"
    return "the same student without " + ("distillation" if outcome.teacher is None else "the teacher")


def sentence(outcome: Outcome) -> str:
    """The run in one or two plain sentences, as honest about a loss as about a gain.

    >>> sentence(outcome)
    'The student gained 1.8 points [1.1, 2.5] over the same student without the teacher (3 seeds), at 9 % of the
    teacher's cost.'

    The cost is the student's share of the teacher's operations for one image, or one word.
    """
    gain, seeds, metric = outcome.gain, f"({counted(len(outcome.gain.per_seed), 'seed')})", outcome.metric
    reached = fmean(arm.evaluation.score for arm in outcome.distilled)
    if is_control(outcome):
        said = f"reached {percent(reached)}" if metric.percent else _level(outcome, reached)
        who = subject(outcome).replace("distilled", "random real")
        return f"{who} {said} {seeds}. Nothing was distilled: this run is the control."
    cost = ""
    if outcome.teacher_cost is not None and outcome.teacher_cost.flops > 0:
        cost = f", at {share(outcome.student_cost.flops, outcome.teacher_cost.flops)} of the teacher's cost"
        cost = cost.replace(" times of", " times")
    if not metric.percent:
        return _lower(outcome, reached, seeds, cost)
    lost, who = gain.mean < 0, subject(outcome)
    said = f"{'lost' if lost else 'gained'} {points(gain.mean, sign=False)} points"
    against = f"{'against' if lost else 'over'} {without(outcome)}"
    match direction(gain):
        case "single" if gain.mean == 0:
            return f"{who} scored the same as {without(outcome)}{cost}. One seed cannot tell a gain from chance."
        case "single":
            return f"{who} {said} {against}, in one seed{cost}. One seed cannot tell a gain from chance."
        case "unclear":
            return (
                f"No clear difference: {_plain(span(gain))} against {without(outcome)} {seeds}{cost}. "
                "The 95 % interval includes 0."
            )
        case "gain":
            return f"{who} gained {_plain(span(gain, sign=False))} {against} {seeds}{cost}."
        case "loss":
            return f"{who} lost {_plain(span(_turned(gain), sign=False))} {against} {seeds}{cost}."


def _level(outcome: Outcome, reached: float) -> str:
    """Where the student is, by a number that is better when it is less."""
    metric = outcome.metric
    if metric is BITS:
        return f"needs {metric.show(reached)} bits a byte"
    found = outcome.distilled[0].evaluation
    steps = f" in {counted(found.nfe, 'step')}" if isinstance(found, SampleEvaluation) else ""
    return f"makes images{steps} at a {metric.name} of {metric.show(reached)}"


def _lower(outcome: Outcome, reached: float, seeds: str, cost: str) -> str:
    """The sentence of a language model, or of a generative one: less is better."""
    gain, metric = outcome.gain, outcome.metric
    begun = f"The student {_level(outcome, reached)}"
    word, size = ("more", _turned(gain)) if gain.mean < 0 else (metric.less, gain)
    match direction(gain):
        case "single":
            same = "as many as" if metric is BITS else "the same as"
            said = f"{points(gain.mean, sign=False, metric=metric)} {word} than" if gain.mean else same
            return f"{begun}, {said} {without(outcome)}, in one seed{cost}. One seed cannot tell a gain from chance."
        case "unclear":
            fewer = f"{span(gain, metric=metric)} {metric.less} {seeds}{cost}. "
            said = f"{begun}; no clear difference to {without(outcome)}: {fewer}"
            return said + "The 95 % interval includes 0."
        case "gain" | "loss":
            said = f"{span(size, sign=False, metric=metric)} {word}"
            return f"{begun}, {said} than {without(outcome)} {seeds}{cost}."


def _turned(gain: Gain) -> Gain:
    """A loss as a positive number."""
    low, high = gain.low, gain.high
    return Gain(mean=-gain.mean, low=None if high is None else -high, high=None if low is None else -low, per_seed=[])


def _plain(gain: str) -> str:
    mean, between = gain.split(" ", 1)
    return f"{mean} points {between}"
