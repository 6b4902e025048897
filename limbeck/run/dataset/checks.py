"""The checks of a run that makes a data set, in their order."""

from collections.abc import Callable
from typing import Any

from limbeck.run.checks import training
from limbeck.run.checks.capabilities import capabilities
from limbeck.run.checks.memory import memory
from limbeck.run.checks.said import Said
from limbeck.run.vision.checks import data, teacher

__all__ = ["CHECKS"]

CHECKS: dict[str, Callable[[Any], Said]] = {
    "teacher's capabilities": capabilities,
    "classes": data.classes,
    "class balance": data.balance,
    "train and test": data.overlap,
    "labels of duplicates": data.conflicts,
    "pixels": data.pixels,
    "class order": teacher.class_order,
    "finite terms": training.where_trained(training.finite),
    "gradient": training.where_trained(training.gradient),
    "frozen teacher": training.where_trained(training.teacher_frozen),
    "falling loss": training.where_trained(training.loss_falls),
    "memory": training.where_trained(memory),
}
