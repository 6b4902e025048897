"""The checks of a run on text, in their order."""

from collections.abc import Callable
from typing import Any

from limbeck.run.checks import training
from limbeck.run.checks.capabilities import capabilities
from limbeck.run.checks.equality import zero_at_equality
from limbeck.run.checks.memory import memory
from limbeck.run.checks.said import Said

__all__ = ["CHECKS"]

CHECKS: dict[str, Callable[[Any], Said]] = {
    "teacher's capabilities": capabilities,
    "finite terms": training.finite,
    "gradient": training.gradient,
    "frozen teacher": training.teacher_frozen,
    "zero at equality": zero_at_equality,
    "falling loss": training.loss_falls,
    "memory": memory,
}
