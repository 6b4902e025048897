"""The checks of a run on text, in their order."""

from collections.abc import Callable
from typing import Any

from limbeck.run.checks import training
from limbeck.run.checks.capabilities import capabilities
from limbeck.run.checks.equality import zero_at_equality
from limbeck.run.checks.memory import memory
from limbeck.run.checks.said import Said
from limbeck.run.language.checks import models, rows

__all__ = ["CHECKS"]

CHECKS: dict[str, Callable[[Any], Said]] = {
    "teacher's capabilities": capabilities,
    "vocabulary": models.vocabulary,
    "padded heads": models.padded_heads,
    "shift": rows.shift,
    "completion masks": rows.masks,
    "end of text": rows.end_of_text,
    "row keys": rows.row_keys,
    "train and test": rows.overlap,
    "packing": rows.packing,
    "fused losses": models.fused,
    "stored signals": models.stored,
    "repeatable teacher": models.repeatable,
    "worth of the teacher": models.worth,
    "temperatures": models.temperatures,
    "finite terms": training.finite,
    "gradient": training.gradient,
    "frozen teacher": training.teacher_frozen,
    "zero at equality": zero_at_equality,
    "falling loss": training.loss_falls,
    "memory": memory,
}
