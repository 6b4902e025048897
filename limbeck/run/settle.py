"""What is left to choose in a run file is chosen and written down: steps, learning rate, device, whole paths."""

from __future__ import annotations

import math
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from limbeck.errors import InputError
from limbeck.run.spec import RunSpec

__all__ = ["absolute", "device_of", "named", "settled"]

POINTS = 20  # of a learning curve


def settled(spec: RunSpec, batches: int, *, batch: int, epochs: float, rate: float) -> RunSpec:
    """The run file with nothing left open.

    Args:
        spec: as it was given.
        batches: of one epoch.
        batch: samples in one of them.
        epochs: when the file says neither steps nor epochs.
        rate: the learning rate when the file does not say.
    """
    an_epoch = math.ceil(batches / spec.accumulate)
    steps = spec.steps or max(1, round((spec.epochs or epochs) * an_epoch))
    return spec.model_copy(
        update={
            "student": absolute(spec.student), "teacher": [absolute(t) for t in spec.teacher],
            "data": _data(spec.data), "steps": steps, "epochs": None, "batch": batch,
            "lr": spec.lr or rate, "eval_every": spec.eval_every or max(1, steps // POINTS),
        }
    )  # fmt: skip


def device_of(name: str) -> torch.device:
    """The device a name stands for; under ``accelerate launch``, each process's own.

    Raises:
        InputError: when this machine has none of that name.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        kind = found.type if found is not None else "cpu"
        name = f"{kind}:{os.environ.get('LOCAL_RANK', '0')}" if kind == "cuda" else kind
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError("device", name, f"is not here; torch sees {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device", name, "is not here; use cpu")
    return device


@contextmanager
def named(role: str) -> Generator[None]:
    """What is wrong with a model is said of the student or of a teacher."""
    try:
        yield
    except InputError as error:
        raise InputError(role if error.field == "model" else f"{role}, {error.field}", error.value, error.fix) from None


def _data(reference: str) -> str:
    """One path, or those of the training and the test data."""
    parts = [reference] if Path(reference).expanduser().exists() else reference.split(",")
    return ",".join(map(absolute, parts))


def absolute(reference: str) -> str:
    """Paths are written whole, so that a run can be resumed from anywhere; names and Hub ids stay."""
    name, at, path = reference.partition("@")  # resnet56@weights.safetensors
    path = path if at else name
    kind, colon, inner = path.partition(":")  # store:folder
    if colon and kind == "store":
        return f"store:{absolute(inner)}"
    if (os.sep in path or "." in path) and Path(path).expanduser().exists():
        path = str(Path(path).expanduser().absolute())
    return f"{name}@{path}" if at else path
