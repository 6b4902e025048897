"""How far two sets of scores put the same things in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import StatisticsError, correlation

__all__ = ["spearman"]


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation, in [-1, 1]: the correlation of the places that scores have in their order; those
    that tie share the mean of theirs. ``None`` where one side has no order: all alike, or fewer than two."""
    try:
        return correlation(_places(a), _places(b))
    except StatisticsError:
        return None


def _places(scores: Sequence[float]) -> list[float]:
    return [sum(other < one for other in scores) + (sum(other == one for other in scores) + 1) / 2 for one in scores]
