"""Can the teacher serve the method?"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from limbeck.core.card import cards
from limbeck.run.checks.bench import Bench
from limbeck.run.checks.said import Said, failed, ok, skipped

# By a network in memory.
SERVED = ("labels", "probabilities", "logits", "features", "input_gradients", "weights", "topk", "text")

NAMES = {"hidden": "features", "gradients": "input_gradients"}  # of capabilities, in the words of cards


def capabilities(bench: Bench) -> Said:
    """Every teacher serves what the method reads. A teacher that serves less than a network says so in ``serves``, or
    in ``capabilities``, in the words of :mod:`limbeck.models.teachers`."""
    needs = bench.card.needs
    if not needs or not bench.task.teachers:
        return skipped("the method reads nothing from a pretrained teacher")
    served = set.intersection(*(_served(t) for t in bench.task.teachers))
    lacking = [need for need in needs if need not in served]
    if lacking:
        fits = [
            c.key for c in cards().values() if c.needs and c.modality == bench.card.modality and served >= {*c.needs}
        ]
        measured = f"the teacher serves {', '.join(sorted(served)) or 'nothing'}; {bench.card.key} needs {lacking[0]}"
        return failed(measured, f"Use a method that such a teacher can serve: {', '.join(fits) or 'there is none'}.")
    return ok(f"the teacher serves {', '.join(needs)}")


def _served(teacher: nn.Module) -> set[str]:
    stated: Iterable[str] | None = getattr(teacher, "capabilities", None)
    if stated is None:
        return set(getattr(teacher, "serves", SERVED))
    served = {NAMES.get(name, name) for name in stated}
    served |= {"probabilities", "topk"} if "logits" in served else set()
    return served | {"labels"} if served & {"text", "topk"} else served
