"""What a report shows of an outcome: words, numbers and marks, ready for the template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from limbeck.run.charts import NAMES, TOTAL, gain_chart, stat_chart
from limbeck.run.dataset.view import distilled_set
from limbeck.run.diffusion.view import generation
from limbeck.run.federated.view import clients
from limbeck.run.language.view import language
from limbeck.run.metric import Metric
from limbeck.run.outcome import Arm, Gain, Outcome, SampleEvaluation
from limbeck.run.plots import Line, curves, mean_line, pooled, reliability
from limbeck.run.settings import broken, flat, run_file, shown
from limbeck.run.vision.view import classes
from limbeck.run.words import (
    Stat,
    counted,
    direction,
    duration,
    in_rounds,
    is_control,
    latency,
    made_set,
    over_seeds,
    percent,
    points,
    quantity,
    sentence,
    share,
)

__all__ = ["view"]

VERDICTS = {
    "gain": ("▲", "A gain"),
    "loss": ("▼", "A loss"),
    "unclear": ("≈", "No clear difference"),
    "single": ("•", "One seed"),
    "control": ("•", "The control"),
}
LATENCY = {"word": "Time to write one word"}
STATUS = {"ok": "✓", "warning": "!", "failed": "✕", "skipped": "–"}
FIDELITY = {
    "paper": "Every equation is the source's.",
    "reconstruction": "A reconstruction: some of what the source leaves open had to be assumed; the notes say what.",
}


def view(outcome: Outcome) -> dict[str, object]:
    """Everything that the template shows, as words, numbers and marks."""
    kind = "control" if is_control(outcome) else direction(outcome.gain)
    symbol, word = VERDICTS[kind]
    return {
        "outcome": outcome,
        "kind": kind,
        "symbol": symbol,
        "verdict": word,
        "lead": sentence(outcome),
        "gain_text": points(outcome.gain.mean, metric=outcome.metric),
        "metric": outcome.metric,
        "language": language(outcome),
        "generation": generation(outcome),
        "set": distilled_set(outcome),
        "clients": clients(outcome),
        "facts": _facts(outcome),
        "alerts": [f for f in outcome.preflight if f.status in ("failed", "warning")],
        "figures": _figures(outcome),
        "curves": _curves(outcome),
        "mine": "Distilled" if kind != "control" or made_set(outcome) else "Student",
        "gains": gain_chart(_seed_gains(outcome), outcome.metric),
        "hero": gain_chart([("Gain", outcome.gain)], outcome.metric),
        "gain_words": _gain_words(outcome),
        "fidelity": _fidelity(outcome),
        "calibration": _calibration(outcome),
        "classes": classes(outcome),
        "cost": _cost(outcome),
        "training": _training(outcome),
        "status": STATUS,
        "checks": _checks(outcome),
        "fidelity_of_code": FIDELITY.get(str(outcome.card.get("fidelity", "")), ""),
        "values": {name: shown(value) for name, value in outcome.values.items()},
        "command": broken(outcome.command),
        "run_file": run_file(outcome.spec),
        "environment": flat(outcome.environment),
    }


def score(arms: Sequence[Arm]) -> float:
    """The headline number, mean over seeds."""
    return fmean(arm.evaluation.score for arm in arms)


def steps(outcome: Outcome) -> int:
    """Of one training of the control; a method of several generations takes more."""
    arms = outcome.control if any(arm.curve.steps for arm in outcome.control) else outcome.distilled
    return max((step for arm in arms for step in arm.curve.steps), default=0)


def named(value: object) -> str:
    """A model or a data set as the run file names it; several are joined."""
    return " + ".join(str(v) for v in value) if isinstance(value, list | tuple) else str(value or "")


def _facts(o: Outcome) -> dict[str, str]:
    found = o.distilled[0].evaluation
    held_out = found.against if isinstance(found, SampleEvaluation) else found.count
    facts = {
        "Teacher": named(o.spec.get("teacher")) or ("" if o.teacher is None else "in the run"),
        "Student": named(o.spec.get("student")),
        "Data": named(o.spec.get("data")),
        "Judged on": f"{counted(found.count, 'sample')} against " * isinstance(found, SampleEvaluation)
        + f"{counted(held_out, f'held-out {o.metric.item}')}"
        + (f", {counted(len(o.classes), 'class')}" if o.classes else ""),
        "Trained for": f"{counted(steps(o), 'round' if in_rounds(o) else 'step')}, {counted(len(o.distilled), 'seed')}",
    }
    return {name: fact for name, fact in facts.items() if fact}


def _figures(o: Outcome) -> list[tuple[str, str, str, str]]:
    """(label, value, note, kind)."""
    over = f"mean of {counted(len(o.distilled), 'seed')}" if len(o.distilled) > 1 else "one seed"
    metric = o.metric
    made = o.distilled[0].evaluation
    steps = f" in {counted(made.nfe, 'step')}" if isinstance(made, SampleEvaluation) else ""
    held = made_set(o)
    who = "Student" if held is None else "Distilled set"
    found = [(who, metric.show(score(o.distilled)), f"{metric.name}{steps}, {over}", "method")]
    if not is_control(o):
        what = f"same student, same budget{', as many steps' if steps else ''}, no teacher"
        what = what if held is None else "as many random real images, used alike"
        what = "federated averaging, the same clients and rounds" if in_rounds(o) else what
        found.append(("Control", metric.show(score(o.control)), what, "control"))
    if held is not None:
        if held.full is not None:
            found.append(("All images", metric.show(held.full), f"trained on all {held.real:,}", ""))
        found.append(("Images", f"{held.stored:,}", f"kept of {held.real:,}", ""))
        return found
    if o.teacher is not None:
        what = f"{metric.name} on the same {metric.on}"
        what = f"in {counted(o.teacher.nfe, 'step')}" if isinstance(o.teacher, SampleEvaluation) else what
        found.append(("Teacher", metric.show(o.teacher.score), what, "teacher"))
    small, large = o.student_cost, o.teacher_cost
    if large is None:
        found.append(("Size", quantity(small.parameters), "parameters", ""))
        found.append(("Operations", quantity(small.flops), f"FLOPs for one {metric.item}", ""))
        found.append(("Latency", latency(small.latency_ms), f"for one {metric.item}, here", ""))
        return found
    an = "a word" if metric.item == "word" else "an image"
    sizes = f"{quantity(small.parameters)} of {quantity(large.parameters)} parameters"
    flops = f"{quantity(small.flops)} of {quantity(large.flops)} FLOPs {an}"
    times = f"{latency(small.latency_ms)} of {latency(large.latency_ms)} {an}, here"
    found.append(("Size", share(small.parameters, large.parameters), sizes, ""))
    found.append(("Operations", share(small.flops, large.flops), flops, ""))
    found.append(("Latency", share(small.latency_ms, large.latency_ms), times, ""))
    return found


def _lines(arms: Sequence[Arm]) -> list[Line]:
    return [list(zip(arm.curve.steps, arm.curve.of(arm.evaluation.metric), strict=False)) for arm in arms]


def _curves(o: Outcome) -> dict[str, object] | None:
    lines = {"control": _lines(o.control), "method": _lines(o.distilled)}
    if is_control(o) or not any(lines["control"]):
        lines.pop("control")
    if not any(line for arm in lines.values() for line in arm):
        return None
    means = {kind: mean_line(arm) for kind, arm in lines.items()}
    teacher, metric = None if o.teacher is None else o.teacher.score, o.metric
    words = _curve_words(o, means)
    title = f"Held-out {metric.name} during training, " + ("distilled and control" if "control" in lines else "by seed")
    return {
        "svg": curves("curves", lines, teacher, title, words, metric=metric),
        "words": words,
        "cut": "The axis starts where the last three quarters of training begin, so that differences can be seen.",
        "names": ["Control", "Distilled"] if "control" in lines else ["Distilled" if made_set(o) else "Student"],
        "rows": _curve_rows(means, metric),
    }


def _curve_words(o: Outcome, means: Mapping[str, Line]) -> str:
    mine = "student" if made_set(o) is None else "distilled set"
    ends = [f"the {mine if kind == 'method' else kind} is at {o.metric.show(line[-1][1])}"
            for kind, line in reversed(list(means.items())) if line]  # fmt: skip
    if o.teacher is not None:
        ends.append(f"the teacher at {o.metric.show(o.teacher.score)}")
    words = "After training " + ", ".join(ends) + "."
    control, method = means.get("control", []), means["method"]
    if direction(o.gain) == "gain" and control and method:
        reached = next((step for step, value in method if o.metric.gain(control[-1][1], value) >= 0), None)
        if reached is not None and reached < control[-1][0]:
            words += f" It passed the control's final {o.metric.name} after {counted(int(reached), 'step')}."
    return words


def _curve_rows(means: Mapping[str, Line], metric: Metric) -> list[tuple[str, list[str]]]:
    held = [dict(line) for line in means.values()]
    every = sorted({step for line in held for step in line})
    stride = -(-len(every) // 60) or 1
    kept = [*every[: len(every) - 1 : stride], *every[-1:]]
    return [(f"{step:,.0f}", [metric.show(line[step]) if step in line else "–" for line in held]) for step in kept]


def _seed_gains(o: Outcome) -> list[tuple[str, Gain]]:
    single = [
        (f"Seed {arm.seed}", Gain(mean=gain, low=None, high=None, per_seed=[gain]))
        for arm, gain in zip(o.distilled, o.gain.per_seed, strict=True)
    ]
    return [*single, (TOTAL, o.gain)] if len(single) > 1 else single


def _gain_words(o: Outcome) -> str:
    seeds, won = len(o.gain.per_seed), sum(gain > 0 for gain in o.gain.per_seed)
    if seeds == 1:
        return "One seed was run. Its gain may be chance: run at least three to get an interval."
    each = "every one of the" if won == seeds else "none of the" if won == 0 else f"{won} of"
    words = f"The student beat its control in {each} {counted(seeds, 'seed')}."
    closed = _closed(o)
    return words + (f" Distillation closed {percent(closed, 0)} of the gap to the teacher." if closed else "")


def _closed(o: Outcome) -> float | None:
    """The share of the control's distance to the teacher that distillation made good, where that means something."""
    if o.teacher is None or direction(o.gain) != "gain":
        return None
    gap = o.metric.gain(score(o.control), o.teacher.score)
    least = 0.2 if o.metric.percent else 0.01 if o.metric.highest is None and o.metric.digits > 2 else 0.1
    return o.metric.gain(score(o.control), score(o.distilled)) / gap if gap > least else None


def _measures(o: Outcome, name: str) -> dict[str, Stat]:
    found: dict[str, Stat] = {}
    for kind, arms in (("control", [] if is_control(o) else o.control), ("method", o.distilled)):
        stat = over_seeds([getattr(arm.evaluation, name, None) for arm in arms])
        if stat is not None:
            found[kind] = stat
    return found


def nats(value: float) -> str:
    """A divergence or a loss in nats, three digits."""
    return f"{value:.3f}" if value < 9.9995 else f"{value:.3g}"


def _fidelity(o: Outcome) -> dict[str, object] | None:
    agree, kl = _measures(o, "agreement"), _measures(o, "kl_to_teacher")
    if "method" not in agree:
        return None
    words = f"The student decides as the teacher does on {percent(agree['method'].mean)} of the {o.metric.item}s"
    words += f", the control on {percent(agree['control'].mean)}." if "control" in agree else "."
    if len(kl) == 2:
        closer = kl["method"].mean < kl["control"].mean
        words += f" Its probabilities are {'closer to' if closer else 'farther from'} the teacher's than the control's."
    charts = [("Agreement with the teacher", f"share of {o.metric.item}s, more is closer", stat_chart(agree, percent))]
    if kl:
        charts.append(("KL(teacher ‖ student)", "nats, less is closer", stat_chart(kl, nats)))
    return {"words": words, "charts": charts}


def _calibration(o: Outcome) -> dict[str, object] | None:
    """``None`` for models that predict no classes."""
    if isinstance(o.distilled[0].evaluation, SampleEvaluation):
        return None
    arms = {"control": [] if is_control(o) else o.control, "method": o.distilled}
    bins = {
        kind: pooled([getattr(arm.evaluation, "reliability", ()) for arm in held])
        for kind, held in arms.items()
        if held
    }
    ece, nll = _measures(o, "ece"), _measures(o, "nll")
    words = f"The student's confidence is off by {percent(ece['method'].mean)} on average"
    words += f"; the control's by {percent(ece['control'].mean)}." if "control" in ece else "."
    rows = [(NAMES[kind], percent(ece[kind].mean), nats(nll[kind].mean)) for kind in bins]
    if (teacher := o.teacher) is not None and not isinstance(teacher, SampleEvaluation):
        rows.append(("Teacher", percent(teacher.ece), nats(teacher.nll)))
    title = "Reliability: how often a prediction is right, against how sure it was"
    table = [(NAMES[k], percent(c), percent(a), f"{n:,}") for k, held in bins.items() for c, a, n in held]
    return {"words": words, "svg": reliability("reliability", bins, title, words), "rows": rows, "table": table}


def _cost(o: Outcome) -> list[tuple[str, str, str, str]]:
    """(what, teacher, student, share)."""
    small, large = o.student_cost, o.teacher_cost

    def row(name: str, field: str, show: Callable[[float], str]) -> tuple[str, str, str, str]:
        mine = getattr(small, field)
        theirs = None if large is None else getattr(large, field)
        return name, "" if theirs is None else show(theirs), show(mine), "" if theirs is None else share(mine, theirs)

    read = [row("Words read a second", "per_second", quantity)] if small.per_second else []
    return [
        row("Parameters", "parameters", lambda v: f"{v:,}"),
        row(f"FLOPs for one {o.metric.item}", "flops", quantity),
        row(LATENCY.get(o.metric.item, "Latency of one image"), "latency_ms", latency),
        row("Memory of the weights", "memory_mb", lambda v: quantity(1e6 * v) + "B"),
        *read,
    ]


def _training(o: Outcome) -> list[tuple[str, str, str, str]]:
    """(arm, a seed, together, note)."""
    rows: list[tuple[str, str, str, str]] = []
    for name, arms in (("Control", [] if is_control(o) else o.control), ("Distilled", o.distilled)):
        if arms:
            cached = sum(arm.cached for arm in arms)
            note = f"{cached} of {len(arms)} from the cache" if cached else ""
            spent = [arm.seconds for arm in arms]
            rows.append((name, duration(fmean(spent)), duration(sum(spent)), note))
    return rows


def _checks(o: Outcome) -> str:
    if not o.preflight:
        return "No check was run."
    held = {status: sum(f.status == status for f in o.preflight) for status in STATUS}
    said = {"ok": "passed", "warning": "to look at", "failed": "failed", "skipped": "did not apply"}
    return (
        f"Of {counted(len(o.preflight), 'check')}, "
        + ", ".join(f"{number} {said[status]}" for status, number in held.items() if number)
        + "."
    )
