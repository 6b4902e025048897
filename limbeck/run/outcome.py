"""What a run found, as typed data: written to ``report.json``, read by ``report`` and ``compare``."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["Arm", "Cost", "Curve", "Evaluation", "Finding", "Gain", "Outcome", "interval", "paired_gain"]

VERSION = 1


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Finding(_Facts):
    """One preflight check: what was measured, and what to do about it."""

    name: str
    status: Literal["ok", "warning", "failed", "skipped"]
    measured: str
    fix: str = ""


class Evaluation(_Facts):
    """A classifier on held-out images. Accuracies in [0, 1], divergences in nats."""

    count: int
    accuracy: float
    nll: float
    ece: float  # expected calibration error, 15 equal-width bins of the top probability
    reliability: list[tuple[float, float, int]]  # a bin's mean confidence, its accuracy, its count; empty bins left out
    per_class: list[float]
    per_class_count: list[int]
    agreement: float | None = None  # share of images on which it decides as the teacher does
    kl_to_teacher: float | None = None  # KL(teacher || student) at temperature 1


class Cost(_Facts):
    """What a model costs. Latency is the median of a batch of one on this machine; ``flops`` counts one image's
    forward pass, a multiply-add as two."""

    parameters: int
    flops: int
    latency_ms: float
    memory_mb: float  # parameters and buffers


class Curve(_Facts):
    """How a training went, on held-out images."""

    steps: list[int]
    accuracy: list[float]
    loss: list[float]  # mean training loss since the point before


class Arm(_Facts):
    """One training, of the control or of the method."""

    seed: int
    evaluation: Evaluation
    curve: Curve
    seconds: float
    cached: bool = False


class Gain(_Facts):
    """Method minus control over paired seeds, in points of accuracy, with a 95 % t interval (none below two seeds)."""

    mean: float
    low: float | None
    high: float | None
    per_seed: list[float]


class Outcome(_Facts):
    """Everything a report shows."""

    version: int = VERSION
    method: str
    card: dict[str, Any]
    values: dict[str, Any]  # the method's hyper-parameters
    spec: dict[str, Any]  # the resolved run file
    command: str
    classes: list[str]
    teacher: Evaluation | None
    teacher_cost: Cost | None
    student_cost: Cost
    control: list[Arm]
    distilled: list[Arm]
    gain: Gain
    preflight: list[Finding]
    environment: dict[str, Any]
    notes: list[str] = []


# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def interval(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Mean and 95 % t interval, or ``None`` with fewer than two values."""
    if len(values) < 2:
        return None
    mean, freedom = fmean(values), len(values) - 1
    half = (_T95[freedom - 1] if freedom <= len(_T95) else 1.96) * stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def paired_gain(control: Sequence[Arm], distilled: Sequence[Arm]) -> Gain:
    """The gain of a method over its control, seed by seed."""
    base = {arm.seed: arm.evaluation.accuracy for arm in control}
    points = [100.0 * (arm.evaluation.accuracy - base[arm.seed]) for arm in distilled]
    found = interval(points)
    mean, low, high = found if found is not None else (fmean(points), None, None)
    return Gain(mean=mean, low=low, high=high, per_seed=points)
