"""What the checks of a run that makes a data set look at."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from limbeck.data.batches import Batches
from limbeck.run.checks.bench import Fit
from limbeck.run.vision.bench import ImageBench

__all__ = ["SetBench"]


@dataclass(frozen=True, eq=False)
class SetBench(ImageBench):
    """A run on images under examination, whose method needs all of them: a set may stand for many a class."""

    @cached_property
    def data(self) -> Batches:
        return self.batches

    @cached_property
    def _fits(self) -> list[Fit]:
        return super().fits()

    def fits(
        self,
        student: Callable[[], nn.Module] | None = None,
        teachers: Sequence[nn.Module] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> list[Fit]:
        """Those of the run itself are made once and copied: a procedure may train experts first."""
        if student is None and teachers is None and values is None:
            return copy.deepcopy(self._fits)
        return super().fits(student, teachers, values)
