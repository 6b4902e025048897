"""What a run works on, once every name in its run file has become a model or a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from limbeck.data.batches import Batches
from limbeck.data.images import ImageSet
from limbeck.models.classifier import Classifier

if TYPE_CHECKING:
    from limbeck.run.spec import RunSpec

__all__ = ["Ensemble", "Task"]


class Ensemble(Classifier):
    """Several classifiers as one, for evaluation: the log of their mean probability."""

    def __init__(self, members: Sequence[Classifier]) -> None:
        nn.Module.__init__(self)  # there is no network of its own to look into
        first = members[0]
        self.members = nn.ModuleList(members)
        self.shape, self.classes, self.reference = first.shape, first.classes, ""
        self.register_buffer("mean", first.mean.clone())

    def forward(self, x: Tensor) -> Tensor:
        logs = torch.stack([member(x).log_softmax(1) for member in self.members])
        return logs.logsumexp(0) - torch.tensor(float(len(logs))).log()


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
        device: where the models are.
    """

    student: Callable[[int], Classifier]
    teachers: Sequence[Classifier]
    train: ImageSet
    test: ImageSet
    batches: Callable[[int], Batches]
    classes: tuple[str, ...]
    spec: RunSpec
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def teacher(self) -> Classifier | None:
        """The teachers as one classifier, for evaluation."""
        return None if not self.teachers else self.teachers[0] if len(self.teachers) == 1 else Ensemble(self.teachers)
