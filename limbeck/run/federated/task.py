"""A run in rounds: the training images are dealt to clients in this process; federated averaging is the control."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from limbeck.core.card import Card, find, method_class
from limbeck.core.method import hyperparameters
from limbeck.data.batches import Batches
from limbeck.federated.partition import partition
from limbeck.models.classifier import Classifier
from limbeck.run.checks.said import Said
from limbeck.run.spec import RunSpec, typed_values
from limbeck.run.vision.task import ImageTask, image_task

__all__ = ["FederatedTask", "federated_task"]

ROUNDS = 50  # when the run file says neither steps nor epochs


@dataclass(frozen=True)
class FederatedTask(ImageTask):
    """Federated image classification, as a :class:`limbeck.run.task.Task`: a step of the run is a round, and the shared
    model is judged. Clients train as the method's own values say; the run's optimiser moves what trains at the server.
    """

    control: ClassVar[str] = "fedavg"
    code: ClassVar[Sequence[str]] = (
        "federated", "methods/federated/fedavg.py", "methods/federated/_shared.py", "run/vision/evaluation.py",
    )  # fmt: skip

    student: Callable[[int], Classifier]  # these two again: inherited, the type checker takes them for methods
    batches: Callable[[int], Batches]

    @property
    def control_values(self) -> Mapping[str, Any]:
        """The same clients, training in the same way, in as many rounds."""
        given, own = typed_values(self.spec), hyperparameters(method_class(find(self.control)))
        fields = hyperparameters(method_class(find(self.spec.method)))
        return {name: given.get(name, fields[name].default) for name in own if name in fields}

    def shares(self) -> list[list[int]]:
        given, seed = typed_values(self.spec), self.spec.first_seed
        public = given.get("share", 0.0)  # images that the server keeps
        labels = (self.train.split(public, seed)[0] if public else self.train).labels
        parts = partition(given["split"], labels, given["population"], seed)
        return [torch.bincount(labels[rows], minlength=len(self.classes)).tolist() for rows in parts]

    def bench(self, card: Card, values: Mapping[str, Any]) -> Any:
        from limbeck.run.vision.bench import WholeBench

        return WholeBench(self, card, values)

    @property
    def checks(self) -> Mapping[str, Callable[[Any], Said]]:
        from limbeck.run.federated.checks import CHECKS

        return CHECKS


def federated_task(spec: RunSpec, device: torch.device) -> FederatedTask:
    """Load images and the network that clients and server share.

    Raises:
        InputError: for a reference that leads nowhere, and for models and data that do not fit each other.
    """
    given = spec if spec.steps or spec.epochs else spec.model_copy(update={"steps": ROUNDS})
    made = image_task(given, device)
    return FederatedTask(
        made.student, made.teachers, made.train, made.test, made.batches, made.classes, made.spec, made.device
    )  # fmt: skip
