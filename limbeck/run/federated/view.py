"""What a report shows of runs in rounds alone: who has which images."""

from __future__ import annotations

from limbeck.run.outcome import Outcome
from limbeck.run.plots import bubbles
from limbeck.run.words import counted

__all__ = ["clients"]

CLIENTS, CLASSES = 40, 20  # that are drawn; more could not be told apart


def clients(o: Outcome) -> dict[str, object] | None:
    """The partition as a picture and a table; ``None`` where all data were in one place."""
    if not o.shares:
        return None
    sizes, kinds = sorted(map(sum, o.shares)), sorted(sum(n > 0 for n in own) for own in o.shares)
    words = f"{counted(len(o.shares), 'client')} hold {_span(sizes)} images each, of {_span(kinds)} classes."
    drawn = [own[:CLASSES] for own in o.shares[:CLIENTS]]
    cut = f"The first {len(drawn)} clients and {len(drawn[0])} classes are drawn. "
    title = "Images of each class at every client"
    names = [f"{k:,}" for k in range(len(drawn))]
    return {
        "words": words,
        "note": cut if (len(drawn), len(drawn[0])) != (len(o.shares), len(o.classes)) else "",
        "svg": bubbles(
            "clients", drawn, columns=names, rows=o.classes[:CLASSES], across="client", title=title, desc=words
        ),
        "classes": o.classes,
        "rows": [(f"{k:,}", f"{sum(own):,}", [f"{n:,}" if n else "–" for n in own]) for k, own in enumerate(o.shares)],
    }


def _span(ordered: list[int]) -> str:
    low, high = ordered[0], ordered[-1]
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
