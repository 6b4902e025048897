"""The control: the same student, budget, data order and augmentation, without the teacher. Paid for once."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn

import limbeck
from limbeck.core.card import find, method_class
from limbeck.core.checkpoint import atomic_folder
from limbeck.errors import InputError
from limbeck.run.outcome import Arm
from limbeck.run.task import Task
from limbeck.run.training import Training

__all__ = ["cache_folder", "control", "control_key"]

# What the control's result depends on, in the run file; its data and its student are hashed by content.
SETTINGS = {
    "augment", "teacher_view", "steps", "batch", "accumulate", "optimizer", "lr", "momentum", "weight_decay",
    "schedule", "clip", "precision", "eval_every",
}  # fmt: skip
CODE = ("core", "data", "models", "run/evaluation.py", "run/training.py")


def cache_folder() -> Path:
    """Where controls are kept: ``LIMBECK_CACHE``, by default ``~/.cache/limbeck``."""
    return Path(os.environ.get("LIMBECK_CACHE") or Path.home() / ".cache" / "limbeck") / "controls"


def control(training: Training, targets: Any, cache: Path | None) -> Arm:
    """Train the control of a seed, or take it from the cache.

    Args:
        training: of the arm "control".
        targets: what the teacher says of the test data: the control, too, is compared with it.
        cache: a folder of controls by key; ``None`` to train in any case.
    """
    free = find(training.task.control).loop == "training_free"  # its result costs less than keeping it
    kept = cache / control_key(training.task, training.seed) if cache is not None and not free else None
    if kept is not None and (found := _load(kept, training, targets)) is not None:
        return found
    student = method_class(find(training.task.control)).distil(training.setting(), dict(training.task.control_values))
    evaluation = training.judged(student, targets)
    arm = Arm(seed=training.seed, evaluation=evaluation, curve=training.curve(), seconds=training.seconds())
    if kept is not None and training.of.main:
        _save(kept, arm, student)
    return arm


def control_key(task: Task, seed: int) -> str:
    """A hash of everything that the control's result depends on."""
    student = task.student(seed)
    said = hashlib.sha256()
    for name, tensor in student.state_dict().items():
        said.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        said.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    said.update(repr(student).encode())
    for kind in sorted({type(m) for m in student.modules()}, key=lambda kind: kind.__qualname__):
        if kind.__module__.split(".")[0] not in ("torch", "limbeck", "transformers", "diffusers"):
            said.update(inspect.getsource(kind).encode())
    root = Path(limbeck.__file__).parent
    for part in (*CODE, *task.code):
        for path in sorted((root / part).glob("*.py")) if (root / part).is_dir() else [root / part]:
            said.update(path.read_bytes())
    settings = task.spec.model_dump(mode="json", include=SETTINGS)
    context = [*task.data.values(), settings, seed, task.device.type, dict(task.control_values), task.judging]
    said.update(json.dumps([*context, torch.__version__, os.environ.get("WORLD_SIZE", "1")]).encode())
    return said.hexdigest()[:24]


def _save(kept: Path, arm: Arm, student: nn.Module) -> None:
    try:
        with atomic_folder(kept) as part:
            save_model(student, str(part / "student.safetensors"))
            facts = {"sha256": _digest(part), "arm": arm.model_dump(mode="json")}
            (part / "control.json").write_text(json.dumps(facts))
    except InputError as error:  # a run does not fail because its control could not be kept for others
        warnings.warn(f"the control was not cached: {error}", stacklevel=2)


def _load(kept: Path, training: Training, targets: Any) -> Arm | None:
    if not kept.is_dir():
        return None
    try:
        facts = json.loads((kept / "control.json").read_text())
        if facts["sha256"] != _digest(kept):
            raise ValueError("its checksum fails")
        student = training.task.student(training.seed)
        load_model(student, kept / "student.safetensors", device=str(training.task.device))
        arm = Arm.model_validate(facts["arm"])
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        warnings.warn(f"the cached control {kept.name} is damaged ({error}); it is trained again", stacklevel=2)
        return None
    evaluation = training.judged(student, targets)  # of the same weights, against this teacher
    return arm.model_copy(update={"evaluation": evaluation, "cached": True})


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "student.safetensors").read_bytes()).hexdigest()
