"""What a run works on, once every name in its run file has become a model or data: one face for every modality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import nn

from limbeck.core.card import Card
from limbeck.data.stream import Stream
from limbeck.run.metric import Metric
from limbeck.run.outcome import Cost, Judged
from limbeck.run.spec import RunSpec
from limbeck.run.trials import Trials

if TYPE_CHECKING:
    from limbeck.run.checks.bench import Bench
    from limbeck.run.checks.said import Said

__all__ = ["Task"]


class Task(Protocol):
    """Models, data and how they are judged. ``run/vision`` has the one of images, ``run/language`` that of text,
    ``run/diffusion`` that of generative models."""

    metric: ClassVar[Metric]
    """The headline number."""
    control: ClassVar[str]
    """The key of the method that trains without a teacher."""
    code: ClassVar[Sequence[str]]
    """The files of this package, beside the common ones, that a control depends on."""

    @property
    def spec(self) -> RunSpec:
        """The resolved run file."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        ...

    @property
    def teachers(self) -> Sequence[nn.Module]:
        """Pretrained, frozen; perhaps none."""
        ...

    @property
    def data(self) -> Mapping[str, str]:
        """Fingerprints of the training and the test data."""
        ...

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes; none for text."""
        ...

    def student(self, seed: int, /) -> nn.Module:
        """A fresh student; the same seed gives the same weights, and the caller's random state is left alone."""
        ...

    def batches(self, seed: int, /) -> Stream[Any]:
        """Training batches in the order of a seed."""
        ...

    @property
    def control_values(self) -> Mapping[str, Any]:
        """The hyper-parameters of the control that are not its defaults."""
        ...

    @property
    def judging(self) -> str:
        """What a control's result depends on beside its data, its student and the code, such as a sampler."""
        ...

    def shares(self) -> list[list[int]]:
        """How many images of each class every client has, in the first seed; none where all data are in one place."""
        ...

    def as_control(self, found: Judged, kept: Path, /) -> Task:
        """The task as the control of a method with this result, and this student's folder, runs it: it is sampled in
        as many steps, or used in the same way."""
        ...

    def accepts(self, model: nn.Module, /) -> bool:
        """Whether a model is of the kind that is trained here."""
        ...

    def targets(self) -> Any:
        """What the teacher says of the test data, for :meth:`evaluate`; ``None`` without one. Computed once."""
        ...

    def evaluate(self, model: nn.Module, targets: Any = None, /) -> Judged:
        """Everything a report says about a model's predictions."""
        ...

    def further(self, model: nn.Module, found: Judged, trials: Trials, /) -> Judged:
        """The evaluation with what else the run file asks for, measured once and shown as it goes on."""
        ...

    def score(self, model: nn.Module, /) -> float:
        """The headline number alone, while the model trains."""
        ...

    def judged_teacher(self) -> Judged | None:
        """The teacher's evaluation, where there is a teacher that can be asked."""
        ...

    def cost(self, model: nn.Module, /) -> Cost:
        """What a model costs to run."""
        ...

    def teacher_cost(self) -> Cost | None:
        """The teacher's cost, where it is a network in memory."""
        ...

    def save(self, model: nn.Module, folder: Path, /) -> None:
        """Write a student so that :meth:`load` reads back the same, bit for bit."""
        ...

    def load(self, folder: Path, /) -> nn.Module:
        """The student in a folder, where the models are."""
        ...

    def model_card(self, text: str, folder: Path, /) -> str:
        """The ``README.md`` of a student's folder, with what the run has to say."""
        ...

    def bench(self, card: Card, values: Mapping[str, Any], /) -> Bench:
        """The run in copies to try things on, for the preflight."""
        ...

    @property
    def checks(self) -> Mapping[str, Callable[[Any], Said]]:
        """The preflight's checks by name, in their order."""
        ...
