"""Numbers that move during a run: pure functions of the clock, so that a resumed run needs no extra state.

``Linear(0, 1)``, ``Cosine(1, 0)``, ``Warmup(0.1)`` and ``Piecewise({0.5: 0.1})`` is how flags and run files
spell them; :func:`parse` reads that, and what they print.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from limbeck.errors import InputError, nearest

__all__ = ["Clock", "Cosine", "Linear", "Piecewise", "Schedule", "Warmup", "Weight", "parse", "value"]


class Clock(NamedTuple):
    """Where a run is: ``step`` optimiser steps of ``steps`` are done."""

    step: int
    steps: int

    @property
    def fraction(self) -> float:
        """In [0, 1): the share of the run that is done."""
        return self.step / max(self.steps, 1)


Schedule = Callable[[Clock], float]
Weight = float | Schedule


def value(weight: Weight, clock: Clock) -> float:
    """The number a weight stands for now."""
    return weight(clock) if callable(weight) else weight


@dataclass(frozen=True)
class Linear:
    """From ``start`` at the first step to ``end`` at the last, evenly."""

    start: float
    end: float

    def __call__(self, clock: Clock) -> float:
        return self.start + (self.end - self.start) * min(clock.step / max(clock.steps - 1, 1), 1.0)


@dataclass(frozen=True)
class Cosine:
    """From ``start`` to ``end`` along half a cosine."""

    start: float = 1.0
    end: float = 0.0

    def __call__(self, clock: Clock) -> float:
        turn = math.pi * min(clock.step / max(clock.steps - 1, 1), 1.0)
        return self.end + (self.start - self.end) * (1.0 + math.cos(turn)) / 2.0


@dataclass(frozen=True)
class Warmup:
    """Rises evenly to ``top`` over the first ``share`` of the run and stays: ``min(1, (step + 1) / warm-up steps)``."""

    share: float = 0.1
    top: float = 1.0

    def __call__(self, clock: Clock) -> float:
        return self.top * min(1.0, (clock.step + 1) / max(self.share * clock.steps, 1.0))


@dataclass(frozen=True)
class Piecewise:
    """``first`` until a fraction of the run, in [0, 1], that ``then`` names is reached, then the number named there."""

    then: dict[float, float]
    first: float = 1.0

    def __call__(self, clock: Clock) -> float:
        now = self.first
        for fraction in sorted(self.then):
            if clock.fraction >= fraction:
                now = self.then[fraction]
        return now


_KINDS: dict[str, type[Linear] | type[Cosine] | type[Warmup] | type[Piecewise]] = {
    "Linear": Linear, "Cosine": Cosine, "Warmup": Warmup, "Piecewise": Piecewise,
}  # fmt: skip


def parse(text: str | float) -> Weight:
    """Read a number, or a schedule as it prints: ``"Linear(0, 1)"``.

    Raises:
        InputError: when it is neither.
    """
    try:
        number = float(text)
    except (TypeError, ValueError):
        number = None
    if number is not None:
        if not math.isfinite(number):
            raise InputError("schedule", text, "is not finite")
        return number
    try:
        call = ast.parse(str(text).strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError
        positional = [ast.literal_eval(a) for a in call.args]
        named = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg}
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise InputError("schedule", text, "is neither a number nor a schedule such as 'Linear(0, 1)'") from None
    kind = call.func.id[:1].upper() + call.func.id[1:]
    if kind not in _KINDS:
        raise InputError("schedule", text, "names no schedule" + nearest(kind, _KINDS))
    try:
        made = _KINDS[kind](*positional, **named)
        held = [v for v in vars(made).values() if not isinstance(v, dict)]
        if isinstance(made, Piecewise):
            held += made.then.values()
            if not all(0 <= fraction <= 1 for fraction in made.then):
                raise ValueError
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in held):
            raise ValueError
    except (TypeError, ValueError, AttributeError, OverflowError):
        raise InputError("schedule", text, f"has wrong arguments; it is written like {_EXAMPLES[kind]!r}") from None
    return made


_EXAMPLES = {
    "Linear": "Linear(0, 1)", "Cosine": "Cosine(1, 0)", "Warmup": "Warmup(0.1)", "Piecewise": "Piecewise({0.5: 0.1})",
}  # fmt: skip
