"""A run that makes a data set: judged by fresh networks that are trained on it, held against random real images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.data.batches import Batches
from limbeck.models.classifier import Classifier
from limbeck.models.load_set import load_set, save_set
from limbeck.models.pretraining import Pretraining, embed
from limbeck.models.synthetic import SyntheticSet, used_like
from limbeck.models.use import descend
from limbeck.run.checks.said import Said
from limbeck.run.cost import cost
from limbeck.run.dataset.evaluation import evaluate_set, trained
from limbeck.run.dataset.transfer import continual, search
from limbeck.run.outcome import Cost, Evaluation, Judged
from limbeck.run.spec import RunSpec
from limbeck.run.trials import Trials
from limbeck.run.vision.evaluation import evaluate
from limbeck.run.vision.task import ImageTask, image_task

__all__ = ["SetTask", "set_task"]

POINTS = 5  # of a learning curve: each of them trains a network
FULL_STEPS = 600  # of the network that is trained on all images, to compare
CARD = """---
library_name: limbeck
task_categories: [image-classification]
---

# A distilled data set

{text}

Read it with `limbeck.models.load_set.load_set(folder)`, or `images.parquet` with any reader of Hub data sets. It stands
for {count} images of shape {shape}.
"""


@dataclass(frozen=True)
class SetTask(ImageTask):
    """Data-set distillation, as a :class:`limbeck.run.task.Task`. The student is the network that sets are made for
    and judged by.

    Args:
        like: the method's set, whose size, step sizes and use are the control's too; while the method runs ``None``.
    """

    control: ClassVar[str] = "real_subset"
    code: ClassVar[Sequence[str]] = ("methods/dataset/real_subset.py", "run/dataset/evaluation.py")

    student: Callable[[int], Classifier]  # these two again: inherited, the type checker takes them for methods
    batches: Callable[[int], Batches]
    like: SyntheticSet | None = None

    @property
    def control_values(self) -> Mapping[str, Any]:
        """As many images, of the same form."""
        if self.like is None:
            return {}
        each = self.like.budget.images // len(self.classes)
        return {"per_class": each, "factor": getattr(self.like.images, "factor", 1)}

    def as_control(self, found: Judged, kept: Path) -> Self:
        """With the same labels and augmentation: what these are worth is not credited to the images."""
        made = replace(self, like=load_set(kept))
        if "full" in vars(self):
            vars(made)["full"] = self.full
        return made

    def accepts(self, model: nn.Module) -> bool:
        return isinstance(model, SyntheticSet)

    @cached_property
    def full(self) -> float:
        """The accuracy of a network that is trained on all real images."""
        return self._on_all(self.student(self.spec.first_seed))

    def _on_all(self, net: Classifier) -> float:
        x, y = self.train.take(torch.arange(len(self.train)))
        known = y >= 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.spec.first_seed)
            descend(net, x[known], y[known], steps=FULL_STEPS, rate=0.05, batch=128)
        return evaluate(net, self.test).accuracy

    def evaluate(self, model: nn.Module, targets: Any = None) -> Evaluation:
        assert isinstance(model, SyntheticSet)
        return evaluate_set(
            self._used(model), self.student, self.test, targets, real=len(self.train), full=self.full
        )  # fmt: skip

    def further(self, model: nn.Module, found: Judged, trials: Trials) -> Judged:
        """What the set is worth for choosing an architecture, and as the memory of classes that come in turn."""
        assert isinstance(model, SyntheticSet) and isinstance(found, Evaluation) and found.made is not None
        held, tried, asked = self._used(model), dict[str, Any](), self.spec.transfer
        if "search" in asked:
            of_all = replace(trials, of="all images")
            tried["search"] = search(held, self.test, self._on_all, trials, of_all)
        if "continual" in asked:
            tried["continual"] = continual(held, self.student, self.test, trials)
        return found.model_copy(update={"made": found.made.model_copy(update=tried)})

    def _used(self, model: SyntheticSet) -> SyntheticSet:
        return model if self.like is None else used_like(self.like, model, self._features(model))

    @torch.no_grad()
    def _features(self, images: SyntheticSet) -> Tensor | None:
        """The teacher's features of the control's images, where a network is trained to regress them."""
        if self.like is None or not isinstance(self.like.use, Pretraining):
            return None
        return embed(self.teachers[0], images().to(self.device))

    def judged_teacher(self) -> Evaluation | None:
        return None if self.teacher is None else evaluate(self.teacher, self.test, self.targets())

    def score(self, model: nn.Module) -> float:
        """Of one network."""
        assert isinstance(model, SyntheticSet)
        return evaluate(trained(model, self.student(0), 0), self.test).accuracy

    def cost(self, model: nn.Module) -> Cost:
        """Of the network that is trained on the set, which is what will run."""
        net = model if isinstance(model, Classifier) else self.student(self.spec.first_seed)
        return cost(net, net.example)

    def save(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, SyntheticSet)
        save_set(model, folder)

    def load(self, folder: Path) -> SyntheticSet:  # type: ignore[override]
        return load_set(folder).to(self.device)

    def model_card(self, text: str, folder: Path) -> str:
        return CARD.format(text=text, shape="x".join(map(str, self.train.shape)), count=f"{len(self.train):,}")

    def bench(self, card: Card, values: Mapping[str, Any]) -> Any:
        from limbeck.run.vision.bench import WholeBench

        return WholeBench(self, card, values)

    @property
    def checks(self) -> Mapping[str, Callable[[Any], Said]]:
        from limbeck.run.dataset.checks import CHECKS

        return CHECKS


def set_task(spec: RunSpec, device: torch.device) -> SetTask:
    """Load images, the network and perhaps teachers.

    Raises:
        InputError: for a reference that leads nowhere, and for models and data that do not fit each other.
    """
    made = image_task(spec, device)
    steps = made.spec.steps or 1
    every = spec.eval_every or max(1, steps // POINTS)
    lr = spec.lr or {"adamw": 1e-2, "sgd": 1.0}[spec.optimizer]
    full = made.spec.model_copy(update={"eval_every": every, "lr": lr})
    return SetTask(
        made.student, made.teachers, made.train, made.test, made.batches, made.classes, full, made.device
    )  # fmt: skip
