"""A run on images: classifiers, a data set of images and the settings they came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.modules import freeze
from limbeck.data.batches import Batches
from limbeck.data.images import ImageSet
from limbeck.data.load import load_data
from limbeck.data.noise import limit, with_label_noise
from limbeck.models.classifier import Classifier
from limbeck.models.load import CARD, load_classifier, save_classifier
from limbeck.run.checks.said import Said
from limbeck.run.cost import cost
from limbeck.run.metric import ACCURACY, Metric
from limbeck.run.outcome import Cost, Evaluation, Judged
from limbeck.run.settle import named, settled
from limbeck.run.spec import RunSpec
from limbeck.run.trials import Trials
from limbeck.run.vision.evaluation import evaluate, log_probabilities

__all__ = ["Ensemble", "ImageTask", "image_task"]

EPOCHS = 30.0  # when neither steps nor epochs are given
BATCH = 64
RATES = {"adamw": 3e-3, "sgd": 0.1}


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
class ImageTask:
    """Image classification, as a :class:`limbeck.run.task.Task`.

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

    metric: ClassVar[Metric] = ACCURACY
    control: ClassVar[str] = "supervised"
    code: ClassVar[Sequence[str]] = ("methods/classification/supervised.py", "run/vision/evaluation.py")

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

    @property
    def data(self) -> Mapping[str, str]:
        return {"train": self.train.fingerprint, "test": self.test.fingerprint}

    @property
    def control_values(self) -> Mapping[str, Any]:
        return {}

    @property
    def judging(self) -> str:
        return ""

    def shares(self) -> list[list[int]]:
        return []

    def as_control(self, found: Judged, kept: Path) -> Self:
        return self

    def accepts(self, model: nn.Module) -> bool:
        return isinstance(model, Classifier)

    @cached_property
    def _targets(self) -> Tensor | None:
        return None if self.teacher is None else log_probabilities(self.teacher, self.test)

    def targets(self) -> Tensor | None:
        return self._targets

    def evaluate(self, model: nn.Module, targets: Any = None) -> Evaluation:
        assert isinstance(model, Classifier)
        return evaluate(model, self.test, targets)

    def further(self, model: nn.Module, found: Judged, trials: Trials) -> Judged:
        return found

    def score(self, model: nn.Module) -> float:
        return self.evaluate(model).accuracy

    def judged_teacher(self) -> Evaluation | None:
        return None if self.teacher is None else self.evaluate(self.teacher)

    def cost(self, model: nn.Module) -> Cost:
        assert isinstance(model, Classifier)
        return cost(model, model.example)

    def teacher_cost(self) -> Cost | None:
        return None if self.teacher is None else self.cost(self.teacher)

    def save(self, model: nn.Module, folder: Path) -> None:
        save_classifier(model, folder)

    def load(self, folder: Path) -> Classifier:
        return load_classifier(str(folder)).to(self.device)

    def model_card(self, text: str, folder: Path) -> str:
        return CARD.format(text=text, shape="x".join(map(str, self.train.shape)), count=len(self.classes))

    def bench(self, card: Card, values: Mapping[str, Any]) -> Any:
        from limbeck.run.vision.bench import ImageBench

        return ImageBench(self, card, values)

    @property
    def checks(self) -> Mapping[str, Callable[[Any], Said]]:
        from limbeck.run.vision.checks import CHECKS

        return CHECKS


def image_task(spec: RunSpec, device: torch.device) -> ImageTask:
    """Load images and classifiers.

    Raises:
        InputError: for a reference that leads nowhere, and for models and data that do not fit each other.
    """
    data = load_data(spec.data, size=spec.size)
    train = data.train if spec.limit is None else limit(data.train, spec.limit)
    train = with_label_noise(train, spec.label_noise) if spec.label_noise else train
    augment, size = None if spec.augment in ("", "none") else spec.augment, spec.batch or BATCH

    def batches(seed: int) -> Batches:
        return Batches(
            train, size, seed=seed, drop_last=len(train) >= size, augment=augment, teacher_view=spec.teacher_view
        )

    def student(seed: int) -> Classifier:
        return _model("student", spec.student, train, seed).to(device)

    teachers: list[Classifier] = []
    for reference in spec.teacher:
        teachers.append(freeze(_model("teacher", reference, train).to(device)))
    student(spec.first_seed)  # refuses here, before anything else is done, what it would refuse later
    full = settled(spec, len(batches(0)), batch=size, epochs=EPOCHS, rate=RATES[spec.optimizer])
    return ImageTask(student, teachers, train, data.test, batches, train.classes, full, device)


def _model(role: str, reference: str, data: ImageSet, seed: int = 0) -> Classifier:
    with named(role):
        return load_classifier(reference, shape=data.shape, classes=data.classes, seed=seed)
