"""What a report shows of generative models alone: how near their samples are, and the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from limbeck.run.metric import FRECHET
from limbeck.run.outcome import Outcome, SampleEvaluation, Strip
from limbeck.run.words import counted, is_control, percent

__all__ = ["Quality", "Row", "generation"]


@dataclass(frozen=True)
class Quality:
    """A model's numbers, as words."""

    name: str
    steps: str
    frechet: str
    precision: str
    recall: str
    diversity: str
    accuracy: str
    sliced: str


@dataclass(frozen=True)
class Row:
    """Samples side by side, and whose they are."""

    kind: str
    name: str
    steps: str
    png: str
    alt: str
    distance: str


def generation(o: Outcome) -> dict[str, object] | None:
    """Distances and samples; ``None`` for a run on something else."""
    method, control = (
        [arm.evaluation for arm in arms if isinstance(arm.evaluation, SampleEvaluation)]
        for arms in (o.distilled, o.control)
    )
    if not method:
        return None
    teacher = [o.teacher] if isinstance(o.teacher, SampleEvaluation) else []
    groups = [("Student" if is_control(o) else "Distilled", "method", method)]
    groups += [] if is_control(o) else [("Control", "control", control)]
    groups += [("Teacher", "teacher", teacher)] if teacher else []
    first = method[0]
    return {
        "words": _words(first, teacher),
        "note": f"Distances are of {first.judge}. {_floor(first)}",
        "labels": any(found.class_accuracy is not None for _, _, held in groups for found in held),
        "strips": _strips(groups),
        "quality": [_quality(name, held) for name, _, held in groups],
        "caption": "Means over the seeds" if len(method) > 1 else "The numbers behind them",
    }


def _words(first: SampleEvaluation, teacher: Sequence[SampleEvaluation]) -> str:
    said = f"{counted(first.count, 'sample')} of each, held against {counted(first.against, 'held-out image')}."
    if teacher:
        same = next((s for s in teacher[0].strips if s.nfe == first.nfe and s.frechet is not None), None)
        if same is not None and same.frechet is not None and same.nfe != teacher[0].nfe:
            said += f" The teacher in {counted(same.nfe, 'step')} is at {FRECHET.show(same.frechet)}."
    return said


def _floor(first: SampleEvaluation) -> str:
    return f"Training images are themselves at {FRECHET.show(first.floor)}: nothing can be expected to be nearer."


def _strips(groups: Sequence[tuple[str, str, Sequence[SampleEvaluation]]]) -> list[Row]:
    """Those of the first seed: the student's, the control's, then the teacher's from few steps to many."""
    rows = list[Row]()
    for name, kind, held in groups:
        for strip in sorted(held[0].strips, key=lambda s: (s.nfe == 0, s.nfe)):
            own = strip.nfe > 0
            rows.append(_row(strip, kind if own else "", name if own else strip.name))
    return rows


def _row(strip: Strip, kind: str, name: str) -> Row:
    steps = counted(strip.nfe, "step") if strip.nfe else ""
    alt = f"Samples: {name.lower()}" + (f", {steps}" if steps else "")
    return Row(kind, name, steps, strip.png, alt, "–" if strip.frechet is None else FRECHET.show(strip.frechet))


def _quality(name: str, held: Sequence[SampleEvaluation]) -> Quality:
    right = [found.class_accuracy for found in held if found.class_accuracy is not None]
    return Quality(
        name,
        f"{held[0].nfe:,}",
        FRECHET.show(fmean(found.frechet for found in held)),
        percent(fmean(found.precision for found in held)),
        percent(fmean(found.recall for found in held)),
        f"{fmean(found.diversity for found in held):.2f}",
        percent(fmean(right)) if right else "–",
        f"{fmean(found.sliced_wasserstein for found in held):.3f}",
    )
