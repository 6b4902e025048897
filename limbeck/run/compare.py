"""Runs side by side, and whether they may be compared at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from limbeck.core.checkpoint import write_atomic
from limbeck.errors import InputError
from limbeck.run.metric import ACCURACY, BITS, FRECHET, Metric
from limbeck.run.outcome import Arm, Cost, Gain, Outcome, SampleEvaluation, TextEvaluation
from limbeck.run.report import cleaned, read_outcome, render
from limbeck.run.words import counted, direction, duration, is_control, percent, quantity, share, span

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Comparison", "Entry", "compare", "compare_command", "write_comparison"]

VERSION = 1
GAINS = {ACCURACY: "points", BITS: "bits", FRECHET: "distance"}
# What a run may have of its own: all other settings must agree, or gains are not of one thing.
OWN = {
    "version", "method", "values", "teacher", "seeds", "first_seed", "eval_every", "trackers", "device",
    "checkpoint_seconds",
}  # fmt: skip


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Entry(_Facts):
    """One run in a comparison. Means over its seeds."""

    folder: str
    method: str
    title: str
    student: str
    teacher: str
    seeds: list[int]
    gain: Gain
    accuracy: float | None
    control: float | None  # its accuracy; its distance, of a generative model
    bits_per_byte: float | None = None  # of a language model
    frechet: float | None = None  # of a generative model
    nfe: int | None = None  # its steps
    agreement: float | None
    ece: float | None
    cost: Cost
    teacher_flops: int | None
    seconds: float  # of one training with the method


class Comparison(_Facts):
    """Runs from the largest gain to the smallest, and what speaks against comparing them."""

    version: int = VERSION
    runs: list[Entry]
    comparable: bool
    same_data: bool
    same_control: bool
    warnings: list[str]


def compare(folders: Sequence[Path]) -> Comparison:
    """Read finished runs and hold them against each other.

    Raises:
        InputError: when a folder holds no finished run, or none is given.
    """
    if not folders:
        raise InputError("runs", "", "are missing; name the folders of finished runs")
    outcomes = {_short(folder, folders): cleaned(read_outcome(folder)) for folder in dict.fromkeys(folders)}
    entries = [_entry(name, outcome) for name, outcome in outcomes.items()]
    warnings = _warnings(outcomes)
    return Comparison(
        runs=sorted(entries, key=lambda entry: -entry.gain.mean),
        comparable=not any(warning.startswith("Not comparable") for warning in warnings),
        same_data=len({_data(o) for o in outcomes.values()}) == 1,
        same_control=_same_control(list(outcomes.values())),
        warnings=warnings,
    )


def compare_command(folders: list[Path], *, as_json: bool, out: Path | None) -> str:
    """What ``limbeck compare`` prints.

    Args:
        folders: of finished runs.
        as_json: JSON instead of a table.
        out: where to write the page as well: a ``.html`` file, or a folder for ``compare.html``.
    """
    found = compare(folders)
    page = None if out is None else write_comparison(found, out)
    if as_json:
        return found.model_dump_json(indent=1)
    return text(found) + (f"\nPage: {page}\n" if page else "")


def write_comparison(comparison: Comparison, out: Path) -> Path:
    """Write the page; returns its path."""
    from limbeck.run.charts import gain_chart

    path = out if out.suffix == ".html" else out / "compare.html"
    names = [run.folder if run.method in run.folder else f"{run.folder} ({run.method})" for run in comparison.runs]
    metric = metric_of(comparison)
    chart = gain_chart([(name, run.gain) for name, run in zip(names, comparison.runs, strict=True)], metric)
    page = render(
        "compare.html", comparison=comparison, lead=lead(comparison), chart=chart, columns=columns(metric),
        unit="points of accuracy" if metric.percent else f"{metric.unit} {metric.less}",
    )  # fmt: skip
    write_atomic(path, page)
    return path


def text(comparison: Comparison) -> str:
    """The comparison as a table for a terminal, with what speaks against it below."""
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), width=160, force_terminal=False, color_system=None)
    console.print(_table(comparison))
    for warning in comparison.warnings:
        console.print(f"! {warning}", markup=False, highlight=False, soft_wrap=True)
    assert isinstance(console.file, StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def lead(comparison: Comparison) -> str:
    """The comparison in a sentence or two."""
    runs, metric = comparison.runs, metric_of(comparison)
    clear, lost = ([run for run in runs if direction(run.gain) == kind] for kind in ("gain", "loss"))
    if not comparison.comparable:
        return "These runs cannot be compared: more than the method differs between them."
    said = "No run gains clearly over its control."
    if clear:
        said = f"{len(clear):,} of {counted(len(runs), 'run')} {'gain' if len(clear) > 1 else 'gains'} clearly"
        said += f" over the control; most of all {clear[0].folder}, {span(clear[0].gain, metric=metric)} {metric.unit}."
    if [run for run in clear[1:] if (run.gain.high or 0) > (clear[0].gain.low or 0)]:
        said += " The intervals of others overlap with its."
    return said + (f" {counted(len(lost), 'run')} clearly {'lose' if len(lost) > 1 else 'loses'}." if lost else "")


def metric_of(comparison: Comparison) -> Metric:
    """What the runs are judged by; where that differs, they are not comparable, and the first one's serves."""
    first = comparison.runs[0]
    return BITS if first.bits_per_byte is not None else FRECHET if first.frechet is not None else ACCURACY


def columns(metric: Metric) -> dict[str, Callable[[Entry], str]]:
    """The columns of the table, each with what it shows of a run."""
    head: dict[str, Callable[[Entry], str]] = {
        "Run": lambda e: e.folder,
        "Method": lambda e: e.method,
        "Student": lambda e: e.student,
        "Seeds": lambda e: str(len(e.seeds)),
        f"Gain, {GAINS[metric]}": lambda e: span(e.gain, metric=metric),
    }
    cost: dict[str, Callable[[Entry], str]] = {
        "FLOPs": lambda e: quantity(e.cost.flops),
        "Of teacher": lambda e: "–" if e.teacher_flops is None else share(e.cost.flops, e.teacher_flops),
        "Training": lambda e: duration(e.seconds),
    }
    if metric is FRECHET:
        head["Distance"] = lambda e: "–" if e.frechet is None else metric.show(e.frechet)
        head["Control"] = lambda e: "–" if e.control is None else metric.show(e.control)
        head["Steps"] = lambda e: "–" if e.nfe is None else f"{e.nfe:,}"
        return {**head, **cost}
    if not metric.percent:
        head["Bits per byte"] = lambda e: "–" if e.bits_per_byte is None else metric.show(e.bits_per_byte)
    return {
        **head,
        "Accuracy": lambda e: _share(e.accuracy),
        "Agreement": lambda e: _share(e.agreement),
        "ECE": lambda e: _share(e.ece),
        **cost,
    }


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


def _table(comparison: Comparison) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = columns(metric_of(comparison))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in shown:
        words = name in {"Run", "Method", "Student"}
        table.add_column(name, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for entry in comparison.runs:
        table.add_row(*(Text(show(entry)) for show in shown.values()))  # Text: a folder may be called [red]
    return table


def _short(folder: Path, folders: Sequence[Path]) -> str:
    """The folder's name, or its path where two have the same name."""
    resolved = {other.resolve() for other in folders if other.resolve().name == folder.resolve().name}
    return folder.resolve().name if len(resolved) == 1 else str(folder)


def _entry(folder: str, o: Outcome) -> Entry:
    bits = [arm.evaluation.bits_per_byte for arm in o.distilled if isinstance(arm.evaluation, TextEvaluation)]
    made = [arm.evaluation for arm in o.distilled if isinstance(arm.evaluation, SampleEvaluation)]
    return Entry(
        folder=folder,
        method=o.method,
        title=str(o.card.get("title", "")),
        student=str(o.spec.get("student", "")),
        teacher=_joined(o.spec.get("teacher")),
        seeds=[arm.seed for arm in o.distilled],
        gain=o.gain,
        accuracy=_mean(o.distilled, "accuracy"),
        control=_mean(o.control, "frechet" if made else "accuracy"),
        bits_per_byte=fmean(bits) if bits else None,
        frechet=_mean(o.distilled, "frechet"),
        nfe=made[0].nfe if made else None,
        agreement=_mean(o.distilled, "agreement"),
        ece=_mean(o.distilled, "ece"),
        cost=o.student_cost,
        teacher_flops=None if o.teacher_cost is None else o.teacher_cost.flops,
        seconds=fmean(arm.seconds for arm in o.distilled),
    )


def _mean(arms: Sequence[Arm], name: str) -> float | None:
    """A measure's mean over the seeds, where every one has it."""
    values = [getattr(arm.evaluation, name, None) for arm in arms]
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _joined(value: object) -> str:
    return " + ".join(map(str, value)) if isinstance(value, list | tuple) else str(value or "")


def _data(o: Outcome) -> str:
    """The fingerprint of training and test data, or their name where a run kept none."""
    return str(o.environment.get("data") or o.spec.get("data"))


def _same_control(outcomes: Sequence[Outcome]) -> bool:
    """Whether the controls of the seeds that all runs share came out alike."""
    per_run = [{arm.seed: arm.evaluation.score for arm in o.control} for o in outcomes]
    shared = set(per_run[0]).intersection(*per_run[1:])
    return bool(shared) and all(len({run[seed] for run in per_run}) == 1 for seed in shared)


def _warnings(outcomes: dict[str, Outcome]) -> list[str]:
    """What speaks against comparing these runs, gravest first."""
    found: list[str] = []
    every = list(outcomes.values())
    if len({o.metric.field for o in every}) > 1:
        found.append("Not comparable: some runs are judged by one thing, some by another.")
    if len({_data(o) for o in every}) > 1:
        found.append("Not comparable: the runs were trained or judged on different data.")
    names: dict[str, None] = dict.fromkeys(name for o in every for name in o.spec if name not in OWN)
    for name in names:
        held = {run: o.spec.get(name) for run, o in outcomes.items()}
        if name != "data" and len({repr(value) for value in held.values()}) > 1:
            found.append(f"Not comparable: different {name} ({_listed(held)}).")
    if len({_joined(o.spec.get("teacher")) for o in every if o.spec.get("teacher")}) > 1:
        teachers = {run: _joined(o.spec.get("teacher")) or "none" for run, o in outcomes.items()}
        found.append(f"Different teachers ({_listed(teachers)}).")
    if len({tuple(arm.seed for arm in o.distilled) for o in every}) > 1:
        found.append("Different seeds: part of the difference between gains may be theirs.")
    if not found and not _same_control(every):
        found.append("Different controls though the settings agree: other versions or another machine.")
    for run, o in outcomes.items():
        if direction(o.gain) == "single" and not is_control(o):
            found.append(f"{run} has one seed: its gain may be chance.")
    return found


def _listed(held: dict[str, Any]) -> str:
    """Who has which value: ``300: a, b; 4000: c``."""
    by_value: dict[str, list[str]] = {}
    for run, value in held.items():
        by_value.setdefault(str(value), []).append(run)
    return "; ".join(f"{value}: {', '.join(runs)}" for value, runs in by_value.items())
