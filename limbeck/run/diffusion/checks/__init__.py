"""The checks of a run on samples, in their order."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from limbeck.run.checks import training
from limbeck.run.checks.capabilities import capabilities
from limbeck.run.checks.equality import zero_at_equality
from limbeck.run.checks.memory import memory
from limbeck.run.checks.said import Said
from limbeck.run.diffusion.bench import SampleBench
from limbeck.run.diffusion.checks import data, models

__all__ = ["CHECKS"]


def unguided_zero(bench: SampleBench) -> Said:
    """A guided teacher is no copy of the student: what vanishes at equality is looked at without guidance."""
    plain = {**bench.values, "guidance": 1.0} if "guidance" in bench.values else bench.values
    return zero_at_equality(replace(bench, values=plain))


CHECKS: dict[str, Callable[[Any], Said]] = {
    "teacher's capabilities": capabilities,
    "train and test": data.overlap,
    "range of the samples": data.span,
    "sample index": data.index,
    "consistent predictions": models.consistent,
    "direction of time": models.direction,
    "labels": models.labels,
    "repeatable teacher": models.repeatable,
    "worth of the teacher": models.worth,
    "finite terms": training.where_trained(training.finite),
    "gradient": training.where_trained(training.gradient),
    "frozen teacher": training.where_trained(training.teacher_frozen),
    "zero at equality": training.where_trained(unguided_zero),
    "falling loss": training.where_trained(training.loss_falls),
    "memory": training.where_trained(memory),
}
