"""What a run works on, once every name in its run file has become a model or a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limbeck.data.batches import Batches
from limbeck.data.images import ImageSet
from limbeck.models.classifier import Classifier

if TYPE_CHECKING:
    from limbeck.run.spec import RunSpec

__all__ = ["Task"]


@dataclass(frozen=True)
class Task:
    """Image classification: models, data and the settings they came from.

    Args:
        student: a fresh student; the same seed gives the same weights, and the caller's random state is left alone.
        teachers: pretrained, frozen; perhaps none.
        train: what is trained on.
        test: held-out images: nothing is trained on them.
        batches: training batches in the order of a seed, with the run's augmentation.
        classes: the classes' names, in the order of the logits.
        spec: the resolved run file.
    """

    student: Callable[[int], Classifier]
    teachers: Sequence[Classifier]
    train: ImageSet
    test: ImageSet
    batches: Callable[[int], Batches]
    classes: tuple[str, ...]
    spec: RunSpec
