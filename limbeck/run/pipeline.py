"""The whole run: resolve, preflight, control, distil, evaluate, report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.card import find, method_class
from limbeck.core.checkpoint import write_atomic
from limbeck.core.modules import in_step
from limbeck.errors import InputError
from limbeck.run.control import cache_folder, control
from limbeck.run.doctor import environment
from limbeck.run.folder import Log, RunFolder
from limbeck.run.metric import FRECHET
from limbeck.run.outcome import Arm, Finding, Outcome, paired_gain
from limbeck.run.preflight import preflight
from limbeck.run.progress import Show
from limbeck.run.redact import redact_command, redact_text
from limbeck.run.report import read_outcome, sentence, write_report
from limbeck.run.resolve import resolve
from limbeck.run.spec import command, make_spec, typed_values, write_yaml
from limbeck.run.task import Task
from limbeck.run.training import Run, Training

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["distil", "examine", "refuse", "run"]


def distil(settings: Mapping[str, Any], out: Path | str, *, quiet: bool = True) -> Outcome:
    """``limbeck run`` in Python: ``distil({"method": "kd", "student": "cnn-8-16", ...}, "runs/x")``.

    Called again with the same settings, it goes on where it was killed, or returns what is there.

    Args:
        settings: what a run file holds.
        out: the run's folder.
        quiet: print nothing.

    Raises:
        InputError: for settings that cannot be, naming the field, the value and the fix.
    """
    with Show(quiet=quiet) as show:
        return run(resolve(make_spec(settings)), RunFolder(Path(out)), show)


def examine(task: Task) -> list[Finding]:
    """The preflight of a run."""
    return preflight(task, find(task.spec.method), typed_values(task.spec))


def run(
    task: Task,
    folder: RunFolder,
    show: Show,
    *,
    check: Callable[[Task], list[Finding]] = examine,
    force: bool = False,
    cache: bool = True,
) -> Outcome:
    """Train control and student for every seed and write the report. What is already in the folder is not done again.

    Args:
        task: from :func:`limbeck.run.resolve.resolve`.
        folder: new, or of this very run.
        show: what a person sees.
        check: the preflight; one that returns nothing skips it.
        force: go on in spite of failed findings.
        cache: use and fill the cache of controls.

    Raises:
        InputError: when the folder holds another run, when the preflight fails, when the disk is full.
    """
    accelerator = _accelerator(task, folder)
    main = accelerator is None or accelerator.is_main_process
    if folder.run_file.exists():
        show.line(f"going on with {folder.root}")
    with in_step(False):  # the others wait
        found = _begin(task, folder, check, force=force) if main else []
    if accelerator is not None:
        accelerator.wait_for_everyone()
        plain = {k: v for k, v in task.spec.model_dump(mode="json").items() if isinstance(v, int | float | str)}
        accelerator.init_trackers("limbeck", plain)
    try:
        of = Run(task, folder, Log(folder.metrics, write=main), show, accelerator)
        arms = _Arms(of, cache_folder() if cache else None)
        seeds = range(task.spec.first_seed, task.spec.first_seed + task.spec.seeds)
        pairs = [arms.pair(seed) for seed in seeds]
        if main:
            with in_step(False):
                outcome = _outcome(task, folder, pairs, found)
            write_report(outcome, folder.root)
            write_atomic(folder.student / "README.md", task.model_card(_card_text(outcome), folder.student))
        if accelerator is not None:
            accelerator.wait_for_everyone()
        return read_outcome(folder.root)
    finally:
        folder.unlock()
        if accelerator is not None:
            accelerator.end_training()


def refuse(findings: Sequence[Finding]) -> None:
    """Stop at the first failure that a preflight found.

    Raises:
        InputError: naming it.
    """
    bad = [f for f in findings if f.status == "failed"]
    if bad:
        also = f" ({len(bad) - 1} more failed)" if len(bad) > 1 else ""
        raise InputError(f"preflight, {bad[0].name}", bad[0].measured, f"is a failure. {bad[0].fix}{also}")


def _begin(task: Task, folder: RunFolder, check: Callable[[Task], list[Finding]], *, force: bool) -> list[Finding]:
    facts = {**environment(), "data": dict(task.data)}
    if folder.run_file.exists():
        return folder.go_on(task.spec, facts)
    folder.check_new()
    found = check(task)
    if not force:
        refuse(found)
    folder.begin(write_yaml(task.spec), facts, found)
    return found


class _Arms:
    """The trainings of a run, each done once: a finished one is read from its file."""

    def __init__(self, of: Run, cache: Path | None) -> None:
        self.of, self.cache = of, cache

    def pair(self, seed: int) -> tuple[Arm, Arm]:
        """The student without the teacher, and with it; the first seed's is kept.

        The method comes first: how its student is sampled is how the control will be.
        """
        method = self._once(seed, self.of.task.spec.method, self.of, self._distil)
        of = replace(self.of, task=self.of.task.as_control(method.evaluation, self.of.folder.student))
        return self._once(seed, "control", of, self._control), method

    def _control(self, training: Training) -> Arm:
        return control(training, training.task.targets(), self.cache)

    def _distil(self, training: Training) -> Arm:
        task = self.of.task
        student = method_class(find(task.spec.method)).distil(training.setting(), typed_values(task.spec))
        if not task.accepts(student):
            raise TypeError(f"{task.spec.method} made a {type(student).__name__}, which is no student of this run")
        evaluation = training.judged(student, task.targets())
        if training.seed == task.spec.first_seed and self.of.main:
            task.save(student, self.of.folder.student)
        return Arm(seed=training.seed, evaluation=evaluation, curve=training.curve(), seconds=training.seconds())

    def _once(self, seed: int, name: str, of: Run, make: Callable[[Training], Arm]) -> Arm:
        path = self.of.folder.arm(seed, name)
        if path.is_file():
            return Arm.model_validate_json(path.read_text(encoding="utf-8"))
        arm = make(Training(of, seed, name))
        if self.of.main:
            write_atomic(path, arm.model_dump_json(indent=1))
        how = " (from the cache)" if arm.cached else f" in {arm.seconds:.0f} s"
        metric = self.of.task.metric
        self.of.show.line(f"seed {seed}  {name}: test {metric.name} {metric.show(arm.evaluation.score)}{how}")
        return arm


def _outcome(task: Task, folder: RunFolder, pairs: list[tuple[Arm, Arm]], found: list[Finding]) -> Outcome:
    spec, (control_arms, arms) = task.spec, zip(*pairs, strict=True)
    notes: list[str] = []
    steps = [arms[0].curve.steps[-1:], control_arms[0].curve.steps[-1:]]
    extra = steps[0][0] - steps[1][0] if all(steps) else 0
    if extra:
        notes.append(f"The method trained {extra:,} steps more than the control: its gain has that price too.")
    if any(arm.cached for arm in control_arms):
        notes.append("Controls were taken from the cache: the same student, data and settings were trained before.")
    if any(f.status == "failed" for f in found):
        notes.append("The run was forced in spite of a failed preflight.")
    return Outcome(
        method=spec.method,
        card=asdict(find(spec.method)),
        values=spec.values,
        spec=spec.model_dump(mode="json"),
        command=command(spec, folder.root.name),
        classes=list(task.classes),
        shares=task.shares(),
        teacher=task.judged_teacher(),
        teacher_cost=task.teacher_cost(),
        student_cost=task.cost(task.load(folder.student)),
        control=list(control_arms),
        distilled=list(arms),
        gain=paired_gain(control_arms, arms),
        preflight=found,
        environment=json.loads(folder.environment.read_text(encoding="utf-8")),
        notes=notes,
    )


def _card_text(outcome: Outcome) -> str:
    """What someone who finds the student's folder must know."""
    card, arm, metric = outcome.card, outcome.distilled[0], outcome.metric
    what = f"{len(outcome.classes)} classes, " if outcome.classes else ""
    return f"""{sentence(outcome)}

- Method: `{outcome.method}`, {card["title"]} ({card["year"]}), {card["url"]}
- Data: `{redact_text(outcome.spec["data"])}`, {what}tested on {arm.evaluation.count:,} {metric.item}s
- Test {metric.name} of these weights (seed {arm.seed}): {metric.show(arm.evaluation.score)}
- Size: {outcome.student_cost.parameters:,} parameters, {1000 * outcome.student_cost.memory_mb:,.0f} kB

Repeat the run:

```
{redact_command(outcome.command)}
```

Limitations: it was trained and tested on the data above alone and {_limits(outcome)}; what the teacher
gets wrong, the student may have learnt."""


def _limits(outcome: Outcome) -> str:
    if outcome.metric is FRECHET:
        return "makes nothing else; it may repeat single training samples, which its distance does not show"
    known = "knows no class but those; its" if outcome.classes else "repeats what it read, true or not; its"
    return f"{known} probabilities are only as calibrated as the run's report says"


def _accelerator(task: Task, folder: RunFolder) -> Accelerator | None:
    """For a run over several processes, or one that logs elsewhere; nothing of it is used otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and not task.spec.trackers:
        return None
    from accelerate import Accelerator

    return Accelerator(
        cpu=task.device.type == "cpu", log_with=list(task.spec.trackers) or None, project_dir=str(folder.root)
    )
