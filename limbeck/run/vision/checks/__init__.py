"""The checks of a run on images, in their order."""

from collections.abc import Callable
from typing import Any

from limbeck.run.checks import training
from limbeck.run.checks.capabilities import capabilities
from limbeck.run.checks.equality import zero_at_equality
from limbeck.run.checks.memory import memory
from limbeck.run.checks.said import Said
from limbeck.run.vision.checks import data, teacher
from limbeck.run.vision.checks.view import one_view

__all__ = ["CHECKS"]

CHECKS: dict[str, Callable[[Any], Said]] = {
    "teacher's capabilities": capabilities,
    "classes": data.classes,
    "class balance": data.balance,
    "train and test": data.overlap,
    "labels of duplicates": data.conflicts,
    "pixels": data.pixels,
    "sample index": data.index,
    "last batch": data.last_batch,
    "repeatable teacher": teacher.repeatable,
    "class order": teacher.class_order,
    "worth of the teacher": teacher.worth,
    "finite terms": training.finite,
    "gradient": training.gradient,
    "frozen teacher": training.teacher_frozen,
    "one view": one_view,
    "zero at equality": zero_at_equality,
    "falling loss": training.loss_falls,
    "memory": memory,
}
