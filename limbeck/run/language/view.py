"""What a report shows of language models alone: how well they write, and what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from limbeck.run.outcome import Outcome, TextEvaluation
from limbeck.run.words import counted, is_control, percent

__all__ = ["Quality", "Shown", "language"]


@dataclass(frozen=True)
class Quality:
    """A model's numbers, as words."""

    name: str
    bits: str
    perplexity: str
    accuracy: str
    match: str


@dataclass(frozen=True)
class Shown:
    """A held-out prompt and its continuations: the document's own, then the models'."""

    prompt: str
    answers: Sequence[tuple[str, str, str]]  # kind, name, text


def language(o: Outcome) -> dict[str, object] | None:
    """Quality and samples; ``None`` for a run on something else."""
    method, control = (
        [arm.evaluation for arm in arms if isinstance(arm.evaluation, TextEvaluation)]
        for arms in (o.distilled, o.control)
    )
    if not method:
        return None
    teacher = [o.teacher] if isinstance(o.teacher, TextEvaluation) else []
    alone = is_control(o)
    groups = [("Student" if alone else "Distilled", "method", method)]
    groups += [] if alone else [("Control", "control", control)]
    groups += [("Teacher", "teacher", teacher)] if teacher else []
    matched = any(found.exact_match is not None for _, _, held in groups for found in held)
    tasks = sorted({name for _, _, held in groups for found in held for name in found.harness})
    return {
        "quality": [_quality(name, held) for name, _, held in groups],
        "matched": matched,
        "words": _words(groups, matched),
        "tasks": [(task, [_mean([f.harness.get(task) for f in held]) for _, _, held in groups]) for task in tasks],
        "names": [name for name, _, _ in groups],
        "samples": _samples(groups),
    }


def _quality(name: str, held: Sequence[TextEvaluation]) -> Quality:
    match = [found.exact_match for found in held if found.exact_match is not None]
    return Quality(
        name,
        f"{fmean(found.bits_per_byte for found in held):.3f}",
        f"{fmean(found.perplexity for found in held):,.4g}",
        percent(fmean(found.accuracy for found in held)),
        percent(fmean(match)) if match else "–",
    )


def _words(groups: Sequence[tuple[str, str, Sequence[TextEvaluation]]], matched: bool) -> str:
    first = groups[0][2][0]
    said = f"Judged on {counted(first.count, 'held-out word')}, {counted(first.bytes, 'byte')} of text."
    if matched:
        said += (
            f" {counted(first.prompts, 'prompt')} answered greedily; an answer counts when it is the document's own."
        )
    return said


def _samples(groups: Sequence[tuple[str, str, Sequence[TextEvaluation]]]) -> list[Shown]:
    """Those of the first seed, side by side; matched by place, as tokenizers may spell a prompt differently."""
    shown = list[Shown]()
    for k, sample in enumerate(groups[0][2][0].samples):
        answers = [("", "Document", sample.reference)]
        for name, kind, held in reversed(groups):
            if k < len(held[0].samples):
                answers.append((kind, name, held[0].samples[k].said))
        shown.append(Shown(sample.prompt, answers))
    return shown


def _mean(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{fmean(known):.3f}" if known else "–"
