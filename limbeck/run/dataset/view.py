"""What a report shows of distilled sets alone: their images, and what they cost to keep."""

from __future__ import annotations

from limbeck.run.outcome import Evaluation, Outcome
from limbeck.run.words import counted, is_control, percent, share

__all__ = ["distilled_set"]


def distilled_set(o: Outcome) -> dict[str, object] | None:
    """Pictures and prices of the first seed; ``None`` for a run that makes a model."""
    arms = [("Real images" if is_control(o) else "Distilled", "method", o.distilled)]
    arms += [] if is_control(o) else [("Random real images", "control", o.control)]
    found = [(name, kind, arm[0].evaluation) for name, kind, arm in arms]
    held = [(n, k, e, e.made) for n, k, e in found if isinstance(e, Evaluation) and e.made is not None]
    if not held:
        return None
    made = held[0][3]
    words = f"{counted(made.stored, 'image')} are kept of {made.real:,}, {share(made.stored, made.real)}"
    words += f", and decoded to {made.images:,}." if made.images != made.stored else "."
    words += f" {counted(len(made.networks), 'fresh network')} were trained on each set, alike."
    rows = [
        (name, f"{m.stored:,}", f"{m.pixels:,}", f"{m.labels + m.rates:,}", ", ".join(map(percent, m.networks)))
        for name, _, _, m in held
    ]
    return {
        "words": words,
        "pictures": [(kind, name, m.png, f"{name}, class by class") for name, kind, _, m in held],
        "rows": rows,
    }
