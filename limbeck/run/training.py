"""The trainings of one arm of a run: named, checkpointed, evaluated on the way, resumed where they were."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.core.checkpoint import Checkpoint
from limbeck.core.fit import iterate
from limbeck.core.method import MakeOptimizer, Method, Schedule, Setting
from limbeck.core.modules import unwrap
from limbeck.core.schedule import Cosine, Piecewise
from limbeck.run.folder import FitId, Log, RunFolder
from limbeck.run.outcome import Curve, Judged
from limbeck.run.progress import Show
from limbeck.run.spec import RunSpec
from limbeck.run.task import Task
from limbeck.run.trials import Trials

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Run", "Training", "make_optimizer", "make_schedule", "seed_everything"]

ROWS = 200  # of the log, for one training
APART = 1_000_003  # between the initialisations of one seed's students: no two seeds share one


def seed_everything(seed: int) -> None:
    """Seed every global random generator."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def make_optimizer(spec: RunSpec) -> MakeOptimizer:
    """The run's optimiser, from parameters."""
    assert spec.lr is not None
    if spec.optimizer == "adamw":
        return partial(torch.optim.AdamW, lr=spec.lr, weight_decay=spec.weight_decay)
    return partial(torch.optim.SGD, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay)


def make_schedule(spec: RunSpec) -> Schedule | None:
    """What multiplies the learning rate."""
    return {"cosine": Cosine(), "step": Piecewise({0.5: 0.1, 0.75: 0.01}), "constant": None}[spec.schedule]


@dataclass(frozen=True)
class Run:
    """What the trainings of a run share.

    Args:
        task: models, data, settings.
        folder: where checkpoints are kept.
        log: where rows are written.
        show: what a person sees.
        accelerator: of a run over several processes or with trackers.
    """

    task: Task
    folder: RunFolder
    log: Log
    show: Show
    accelerator: Accelerator | None = None

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.accelerator is None or self.accelerator.is_main_process


class Training:
    """What a run hands to :meth:`Method.distil`, for one seed of one arm.

    Args:
        of: the run.
        seed: of the student's first weights, of the data's order, and of the global generators.
        arm: "control" or the method's key.
    """

    def __init__(self, of: Run, seed: int, arm: str) -> None:
        self.of, self.seed, self.arm = of, seed, arm
        self.task, self.data = of.task, of.task.batches(seed)
        self.fits: list[FitId] = []
        self.students = 0

    def setting(self) -> Setting:
        """Seed everything; from here on the procedure is a function of the seed."""
        seed_everything(self.seed)
        assert self.task.spec.steps is not None
        return Setting(self.student, self.task.teachers, self.data, self.task.spec.steps, self.fit)

    def student(self) -> nn.Module:
        """The next fresh student; the control's first and the method's first are the same."""
        self.students += 1
        return self.task.student(self.seed + APART * (self.students - 1))

    def fit(
        self, method: Method, *, name: str = "student", data: Iterable[Any] | None = None, steps: int | None = None
    ) -> None:
        """Train a method to its end, from where its newest checkpoint is."""
        spec, which = self.task.spec, FitId(self.seed, self.arm, name)
        if which in self.fits:
            raise ValueError(f"two fits of a procedure are called {name!r}; give each its own name")
        self.fits.append(which)
        total = steps if steps is not None else spec.steps
        assert total is not None and spec.eval_every is not None
        begun, learnt, means, seconds, clock = False, False, _Means(), 0.0, time.perf_counter()
        for record in iterate(
            method.to(self.task.device), data if data is not None else self.data, make_optimizer(spec), steps=total,
            lr=make_schedule(spec), clip=spec.clip, accumulate=spec.accumulate,
            precision="bf16" if spec.precision == "bf16" else None, accelerator=self._distributed(),
            checkpoint=Checkpoint(self.of.folder.checkpoints(which), seconds=spec.checkpoint_seconds),
        ):  # fmt: skip
            done, row = record.step + 1, None
            if not begun:  # only now is it known where the training goes on
                begun = True
                self.of.log.rewind(which, record.step)
                seconds = sum(r["seconds"] for r in self.of.log.of(which)[-1:])
                learnt = any("loss" in row["logs"] for row in self.of.log.of(which))
                self.of.show.begin(f"seed {self.seed}  {self.arm}  {name}", record.step, total)
            means.add(record.logs)
            learnt = learnt or "loss" in record.logs  # players may take steps before the student's first
            test = done % spec.eval_every == 0 or done == total
            if test or done % max(1, total // ROWS) == 0:
                logs = means.take()  # waits for the device: before the clock is read
                seconds += time.perf_counter() - clock
                row = {"step": done, "steps": total, "logs": logs, "seconds": round(seconds, 3)}
                student = getattr(method, "student", None)
                inner = unwrap(student) if isinstance(student, nn.Module) else None
                if test and learnt and inner is not None and self.task.accepts(inner):
                    row |= {self.task.metric.field: self.task.score(inner)}
                self.of.log.write(which, row)
                self._track(which, row)
                clock = time.perf_counter()
            self.of.show.step(done, row)
        if not begun:
            self.of.log.rewind(which, total)
        self.of.show.end()

    def judged(self, model: nn.Module, targets: Any) -> Judged:
        """The model's evaluation, with what else the run file asks for."""
        trials = Trials(self.of.folder.trials, self.of.show, f"seed {self.seed}  {self.arm}", write=self.of.main)
        return self.task.further(model, self.task.evaluate(model, targets), trials)

    def _distributed(self) -> Accelerator | None:
        accelerator = self.of.accelerator
        return accelerator if accelerator is not None and accelerator.num_processes > 1 else None

    def _track(self, which: FitId, row: Mapping[str, Any]) -> None:
        if self.of.accelerator is not None:
            scalars = {**row["logs"], **{name: row[name] for name in (self.task.metric.field,) if name in row}}
            self.of.accelerator.log(
                {"/".join((*map(str, which), name)): scalar for name, scalar in scalars.items()}, step=row["step"]
            )

    def curve(self) -> Curve:
        """How it did on the test data on the way; the steps of a procedure's trainings are counted on."""
        steps, scores, losses, before = list[int](), list[float](), list[float](), 0
        field = self.task.metric.field
        for which in self.fits:
            since, total, count = 0, 0.0, 0
            for row in self.of.log.of(which):
                steps_of_row = row["step"] - since if "loss" in row["logs"] else 0  # none were the student's
                total += row["logs"].get("loss", 0.0) * steps_of_row
                since, count = row["step"], count + steps_of_row
                if field in row:
                    steps.append(before + row["step"])
                    scores.append(row[field])
                    losses.append(total / count if count else losses[-1] if losses else 0.0)
                    total, count = 0.0, 0
            before += since
        return Curve.model_validate({"steps": steps, "loss": losses, field: scores})

    def seconds(self) -> float:
        """The time of all trainings, tests not counted."""
        return sum(row["seconds"] for which in self.fits for row in self.of.log.of(which)[-1:])


class _Means:
    """Means of scalars over steps, kept on the device until they are wanted."""

    def __init__(self) -> None:
        self.sums, self.counts = dict[str, Tensor](), dict[str, int]()

    def add(self, logs: Mapping[str, Tensor]) -> None:
        for name, scalar in logs.items():
            self.sums[name] = self.sums[name] + scalar if name in self.sums else scalar
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means
