"""What the checks look at: a run's models and data, in copies small enough to try things on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.core.card import Card, method_class
from limbeck.core.checkpoint import restore_rng, rng_state
from limbeck.core.fit import _to
from limbeck.core.method import Clock, Method, Setting, Update
from limbeck.run.task import Task

__all__ = ["CLOCKS", "Bench", "Fit", "gradients", "same_draws", "teachers_of", "updates"]

STEPS = 100
CLOCKS = (Clock(0, STEPS), Clock(STEPS // 2, STEPS), Clock(STEPS - 1, STEPS))  # schedules and stages differ over a run
FITS = 3  # of a procedure that are looked at


class Fit(NamedTuple):
    """A method as a run would train it, untrained, and a batch of what it would be trained on."""

    method: Method
    batch: Any


@dataclass(frozen=True, eq=False)
class Bench:
    """A run under examination. Whatever is trained or put into another mode here is a copy."""

    task: Task
    card: Card
    values: Mapping[str, Any]

    @cached_property
    def student(self) -> Any:
        """The run's first student, untrained. Only to be looked at."""
        return self.task.student(self.task.spec.first_seed)

    @cached_property
    def batches(self) -> Any:
        """The batches that the run would train on."""
        return self.task.batches(self.task.spec.first_seed)

    @cached_property
    def data(self) -> Any:
        """Small batches of a few samples, made as the run's are."""
        raise NotImplementedError

    @cached_property
    def batch(self) -> Any:
        """One of them, where the models are."""
        return next(iter(self.data)).to(self.task.device)

    @property
    def double(self) -> nn.Module:
        """The network that is student and teacher at once, where the two are to be equal."""
        return self.task.teachers[0] if self.task.teachers else self.student

    @property
    def growth(self) -> float:
        """How many times as large as the small batch the run's is."""
        return self.batches.batch / len(self.batch.y)

    @property
    def teaches(self) -> bool:
        """Whether a pretrained teacher takes part."""
        return self.card.teacher not in ("none", "online", "previous") and bool(self.task.teachers)

    def teachers(self) -> list[Any]:
        """Copies of the run's teachers."""
        return [copy.deepcopy(teacher) for teacher in self.task.teachers]

    def fits(
        self,
        student: Callable[[], nn.Module] | None = None,
        teachers: Sequence[nn.Module] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> list[Fit]:
        """What the run's procedure would train: the first three fits of the method's own class.

        Args:
            student: in place of the run's student.
            teachers: in place of copies of the run's teachers.
            values: in place of the run's hyper-parameters.
        """
        own, found, device = method_class(self.card), list[Fit](), self.task.device

        def look(method: Method, *, data: Iterable[Any] | None = None, **_: Any) -> None:
            if isinstance(method, own):
                batch = next(iter(data if data is not None else self.data))
                found.append(Fit(method.to(device), _to(batch, device)))
            if len(found) == FITS:
                raise _Enough

        made = student if student is not None else lambda: self.task.student(self.task.spec.first_seed)
        given = self.teachers() if teachers is None else teachers
        with suppress(_Enough):
            own.distil(Setting(made, given, self.data, STEPS, look), self.values if values is None else values)
        return found

    def fit(self, teachers: Sequence[nn.Module] | None = None) -> Fit:
        """The last of :meth:`fits`: generations begin with one that has no teacher yet."""
        return self.fits(teachers=teachers)[-1]


class _Enough(Exception):
    """Stops a procedure whose first fits are known."""


def updates(method: Method, batch: Any, clock: Clock) -> Iterator[Update]:
    """A method's updates on a batch, with no step taken between them."""
    running = method.updates(batch, clock)
    update = next(running, None)
    while update is not None:
        yield update
        try:
            update = running.send(False)
        except StopIteration:
            return


def gradients(loss: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """A loss's gradients, ``None`` where a parameter takes no part; its graph stays."""
    if not loss.requires_grad:
        return [None] * len(parameters)
    return torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)


def teachers_of(method: Method) -> list[nn.Module]:
    """The networks that a method calls its teachers."""
    held = [getattr(method, name, None) for name in ("teacher", "teachers")]
    return [
        m for part in held for m in (part if isinstance(part, nn.ModuleList) else [part]) if isinstance(m, nn.Module)
    ]


@contextmanager
def same_draws(seed: int = 0) -> Generator[None]:
    """The same random numbers every time; afterwards every generator is where it was."""
    kept = rng_state()
    try:
        torch.manual_seed(seed)
        yield
    finally:
        restore_rng(kept)
