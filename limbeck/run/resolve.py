"""From a run file to models and data; what is left to choose in the file is chosen and written down."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from limbeck.core.card import find
from limbeck.core.modules import freeze
from limbeck.data.batches import Batches
from limbeck.data.images import ImageSet
from limbeck.data.load import load_data
from limbeck.data.noise import limit, with_label_noise
from limbeck.errors import InputError
from limbeck.models.classifier import Classifier
from limbeck.models.load import load_classifier
from limbeck.run.doctor import installed
from limbeck.run.spec import RunSpec
from limbeck.run.task import Task

__all__ = ["resolve"]

EPOCHS = 30.0  # when neither steps nor epochs are given
POINTS = 20  # of a learning curve
RATES = {"adamw": 3e-3, "sgd": 0.1}


def resolve(spec: RunSpec) -> Task:
    """Load the data and the teachers, and settle steps, learning rate, device and paths.

    Raises:
        InputError: for a reference that leads nowhere, and for models and data that do not fit each other.
    """
    card = find(spec.method)
    if not spec.teacher and card.teacher in ("frozen", "ensemble", "black_box", "trainable"):
        raise InputError("teacher", "", f"is missing: {card.key} learns from one; name a folder, a file or a Hub id")
    for tracker in spec.trackers:
        if installed(tracker) is None:
            raise InputError("trackers", tracker, f"is not installed; pip install {tracker}")
    device = _device(spec.device)
    data = load_data(spec.data, size=spec.size)
    train = data.train if spec.limit is None else limit(data.train, spec.limit)
    train = with_label_noise(train, spec.label_noise) if spec.label_noise else train
    augment = None if spec.augment in ("", "none") else spec.augment

    def batches(seed: int) -> Batches:
        return Batches(
            train, spec.batch, seed=seed, drop_last=len(train) >= spec.batch, augment=augment,
            teacher_view=spec.teacher_view,
        )  # fmt: skip

    def student(seed: int) -> Classifier:
        return _model("student", spec.student, train, seed).to(device)

    teachers: list[Classifier] = []
    for reference in spec.teacher:
        teachers.append(freeze(_model("teacher", reference, train).to(device)))
    student(spec.first_seed)  # refuses here, before anything else is done, what it would refuse later
    an_epoch = math.ceil(len(batches(0)) / spec.accumulate)
    steps = spec.steps or max(1, round((spec.epochs or EPOCHS) * an_epoch))
    full = spec.model_copy(
        update={
            "student": _absolute(spec.student), "teacher": [_absolute(t) for t in spec.teacher],
            "data": _absolute(spec.data), "steps": steps, "epochs": None, "lr": spec.lr or RATES[spec.optimizer],
            "eval_every": spec.eval_every or max(1, steps // POINTS),
        }
    )  # fmt: skip
    return Task(student, teachers, train, data.test, batches, train.classes, full, device)


def _model(role: str, reference: str, data: ImageSet, seed: int = 0) -> Classifier:
    try:
        return load_classifier(reference, shape=data.shape, classes=data.classes, seed=seed)
    except InputError as error:  # say which of the two it is
        raise InputError(role if error.field == "model" else f"{role}, {error.field}", error.value, error.fix) from None


def _device(name: str) -> torch.device:
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


def _absolute(reference: str) -> str:
    """Paths are written whole, so that a run can be resumed from anywhere; names and Hub ids stay."""
    name, at, path = reference.partition("@")  # resnet56@weights.safetensors
    path = path if at else name
    if (os.sep in path or "." in path) and Path(path).expanduser().exists():
        path = str(Path(path).expanduser().absolute())
    return f"{name}@{path}" if at else path
