"""What the checks of a run on images look at."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

from torch import Tensor, nn

from limbeck.data.batches import Batches, Images
from limbeck.data.images import ImageSet
from limbeck.models.classifier import Classifier
from limbeck.run.checks.bench import Bench, Fit
from limbeck.run.vision.evaluation import log_probabilities
from limbeck.run.vision.task import ImageTask

__all__ = ["ImageBench", "WholeBench"]

PROBED = 512  # held-out images that the teacher is tried on
TRIED = 64  # images a training step is tried with


@dataclass(frozen=True, eq=False)
class ImageBench(Bench):
    """A run on images under examination."""

    task: ImageTask

    @cached_property
    def student(self) -> Classifier:
        return self.task.student(self.task.spec.first_seed)

    @cached_property
    def batches(self) -> Batches:
        return self.task.batches(self.task.spec.first_seed)

    @cached_property
    def data(self) -> Batches:
        """Small batches of a few images of every class, with the run's augmentation; rows are numbered within them."""
        run = self.batches
        few = self.task.train.limited(per_class=ceil(4 * TRIED / len(self.task.classes)))
        size = max(1, min(run.batch, TRIED, len(few)))
        return Batches(few, size, seed=run.seed, augment=run.augment, teacher_view=run.teacher_view)

    @cached_property
    def batch(self) -> Images:
        return next(iter(self.data)).to(self.task.device)

    @cached_property
    def probe(self) -> ImageSet:
        """A few hundred held-out images of known class."""
        known = self.task.test.subset((self.task.test.labels >= 0).nonzero()[:, 0])
        return known.limited(count=PROBED)

    @cached_property
    def predictions(self) -> list[Tensor]:
        """Every teacher's log-probabilities on the probe."""
        return [log_probabilities(teacher, self.probe) for teacher in self.task.teachers]


@dataclass(frozen=True, eq=False)
class WholeBench(ImageBench):
    """A run whose method needs all images: a set may stand for many a class, and clients share them."""

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
