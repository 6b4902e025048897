"""A run on samples: diffusion and flow models, images in [-1, 1] and the settings they came from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from limbeck.core.card import Card, find
from limbeck.core.modules import freeze
from limbeck.data.images import DataPair, ImageSet
from limbeck.data.load import load_data
from limbeck.data.noise import limit
from limbeck.data.samples import SampleBatches, SampleSet
from limbeck.errors import InputError
from limbeck.methods.diffusion._shared import trainable
from limbeck.models.autoencoder import Autoencoder
from limbeck.models.denoiser import Denoiser
from limbeck.models.load_denoiser import autoencoder_of, is_fresh, load_denoiser
from limbeck.models.path import Flow
from limbeck.models.sampling import Ode, Sampler
from limbeck.models.save_denoiser import model_card, save_denoiser
from limbeck.run.checks.said import Said
from limbeck.run.cost import bytes_of, flops_of, latency_of
from limbeck.run.diffusion.evaluation import Reference, evaluate, score
from limbeck.run.evaluation import evaluating
from limbeck.run.metric import FRECHET, Metric
from limbeck.run.outcome import Cost, Judged, SampleEvaluation
from limbeck.run.settle import named, settled
from limbeck.run.spec import RunSpec, typed_values
from limbeck.run.trials import Trials

__all__ = ["SampleTask", "sample_task"]

EPOCHS = 50.0  # when neither steps nor epochs are given
BATCH = 64
FRESH_RATE, TRAINED_RATE = {"adamw": 1e-3, "sgd": 0.1}, {"adamw": 1e-4, "sgd": 0.01}
COPY = "teacher"  # the student that is one of its teacher


@dataclass(frozen=True)
class SampleTask:
    """Generation, as a :class:`limbeck.run.task.Task`.

    Args:
        student: a fresh student; the same seed gives the same weights, and the caller's random state is left alone.
        teachers: pretrained, frozen; perhaps none.
        train: what is trained on.
        test: held-out images: nothing is trained on them.
        spec: the resolved run file.
        autoencoder: of models that work on latents; ``None`` where they work on the images.
        sampler: how the control is sampled; of the method's students ``None``, as they have their own.
        device: where the models are.
    """

    metric: ClassVar[Metric] = FRECHET
    control: ClassVar[str] = "denoising"
    code: ClassVar[Sequence[str]] = (
        "losses", "diagnostics", "methods/diffusion/denoising.py", "methods/diffusion/_shared.py",
        "run/diffusion/evaluation.py", "run/diffusion/judge.py",
    )  # fmt: skip

    student: Callable[[int], Denoiser]
    teachers: Sequence[Denoiser]
    train: ImageSet
    test: ImageSet
    spec: RunSpec
    autoencoder: Autoencoder | None = None
    sampler: Sampler | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def data(self) -> Mapping[str, str]:
        return {"train": self.train.fingerprint, "test": self.test.fingerprint}

    @property
    def classes(self) -> Sequence[str]:
        return self.train.classes

    @cached_property
    def samples(self) -> SampleSet:
        """What is trained on."""
        return self.units(self.train)

    def units(self, images: ImageSet) -> SampleSet:
        """Images as the models see them: in [-1, 1], or as latents."""
        found = SampleSet.of(images)
        if self.autoencoder is None:
            return found
        latents = self.autoencoder.encode(found.take(torch.arange(len(found))).x)
        return SampleSet(latents, found.y, found.classes, found.name)

    def batches(self, seed: int) -> SampleBatches:
        size = min(self.spec.batch or BATCH, len(self.train))
        return SampleBatches(self.samples, size, seed=seed, drop_last=True)

    @cached_property
    def reference(self) -> Reference:
        """The held-out images, as they are judged."""
        return Reference(DataPair(self.train, self.test), self.device, self.autoencoder)

    @property
    def control_values(self) -> Mapping[str, Any]:
        """On a path that turns, v is what is regressed on; labels stay where the model has no null label."""
        first = self.teachers[0] if self.teachers else self.student(self.spec.first_seed)
        given: dict[str, Any] = {} if isinstance(first.path, Flow) else {"target": "v"}
        return given if getattr(first.net, "null", True) else {**given, "unlabelled": 0.0}

    @property
    def judging(self) -> str:
        first = self.student(self.spec.first_seed)
        seen = "" if self.autoencoder is None else f" {self.autoencoder.fingerprint}"
        return f"{first.path} {first.prediction} {self.sampler}{seen}"

    def shares(self) -> list[list[int]]:
        return []

    def as_control(self, found: Judged, kept: Path) -> Self:
        assert isinstance(found, SampleEvaluation)
        made = replace(self, sampler=Ode(found.nfe))
        vars(made).update({name: value for name, value in vars(self).items() if name in ("reference", "samples")})
        return made

    def accepts(self, model: nn.Module) -> bool:
        return isinstance(model, Denoiser)

    def targets(self) -> None:
        return None

    def evaluate(self, model: nn.Module, targets: Any = None) -> SampleEvaluation:
        assert isinstance(model, Denoiser)
        return evaluate(model, self.reference, "Student" if self.sampler is None else "Control", self.sampler)

    def further(self, model: nn.Module, found: Judged, trials: Trials) -> Judged:
        return found

    def score(self, model: nn.Module) -> float:
        assert isinstance(model, Denoiser)
        return score(model, self.reference, self.sampler)

    @cached_property
    def _judged(self) -> SampleEvaluation | None:
        return evaluate(self.teachers[0], self.reference, "Teacher", short=True) if self.teachers else None

    def judged_teacher(self) -> SampleEvaluation | None:
        return self._judged

    def cost(self, model: nn.Module) -> Cost:
        """Of one sample, by the model's own sampler; what decodes latents is the same for all and left out."""
        assert isinstance(model, Denoiser)
        noise, y = model.noise(1), torch.zeros(1, dtype=torch.int64, device=self.device)
        with evaluating(model):
            flops = flops_of(lambda: model.generate(noise, y))
            latency = latency_of(lambda: model.generate(noise, y), self.device)
        size = sum(p.numel() for p in model.parameters())
        return Cost(parameters=size, flops=flops, latency_ms=latency, memory_mb=bytes_of(model) / 1e6)

    def teacher_cost(self) -> Cost | None:
        return self.cost(self.teachers[0]) if self.teachers else None

    def save(self, model: nn.Module, folder: Path) -> None:
        save_denoiser(model, folder, autoencoder=self.autoencoder)

    def load(self, folder: Path) -> Denoiser:
        return load_denoiser(str(folder)).to(self.device)

    def model_card(self, text: str, folder: Path) -> str:
        return model_card(self.load(folder), text, self.autoencoder)

    def bench(self, card: Card, values: Mapping[str, Any]) -> Any:
        from limbeck.run.diffusion.bench import SampleBench

        return SampleBench(self, card, values)

    @property
    def checks(self) -> Mapping[str, Callable[[Any], Said]]:
        from limbeck.run.diffusion.checks import CHECKS

        return CHECKS


def sample_task(spec: RunSpec, device: torch.device) -> SampleTask:
    """Load images and diffusion models.

    Raises:
        InputError: for a reference that leads nowhere, for models and data that do not fit each other, and for a
            guidance that the teacher cannot give.
    """
    data = load_data(spec.data, size=spec.size)
    train = data.train if spec.limit is None else limit(data.train, spec.limit)
    spec = spec.model_copy(update={"student": spec.student or COPY})
    autoencoder = _autoencoder(spec, device)
    shape = train.shape if autoencoder is None else autoencoder.shape_of(train.shape)
    teachers = _teachers(spec, shape, train.classes, device)
    student = _student(spec, shape, train.classes, teachers, device)
    student(spec.first_seed)  # refuses here, before anything else is done, what it would refuse later
    _check_guidance(spec, teachers)
    rates = FRESH_RATE if is_fresh(spec.student) else TRAINED_RATE
    size = min(spec.batch or BATCH, len(train))
    full = settled(spec, max(1, len(train) // size), batch=size, epochs=EPOCHS, rate=rates[spec.optimizer])
    return SampleTask(student, teachers, train, data.test, full, autoencoder, device=device)


def _autoencoder(spec: RunSpec, device: torch.device) -> Autoencoder | None:
    """The one beside the trained models."""
    made = dict[str, Autoencoder]()
    for role, reference in (*(("teacher", name) for name in spec.teacher), ("student", spec.student)):
        if reference == COPY or is_fresh(reference):
            continue
        with named(role):
            found = autoencoder_of(reference)
        made |= {} if found is None else {found.fingerprint: found}
        if len(made) > 1:
            raise InputError(role, reference, "has another autoencoder than the one before: their latents differ")
    return next((found.to(device) for found in made.values()), None)


def _teachers(spec: RunSpec, shape: Sequence[int], classes: Sequence[str], device: torch.device) -> list[Denoiser]:
    card, made = find(spec.method), list[Denoiser]()
    if len(spec.teacher) > 1 and card.teacher != "ensemble":
        raise InputError("teacher", len(spec.teacher), f"are too many: {card.key} learns from one")
    for reference in spec.teacher:
        with named("teacher"):
            model = load_denoiser(reference, shape=shape, classes=classes)
            made.append(freeze(model.to(device)))
    return made


def _student(
    spec: RunSpec, shape: Sequence[int], classes: Sequence[str], teachers: Sequence[Denoiser], device: torch.device
) -> Callable[[int], Denoiser]:
    """Fresh weights are made anew for every seed; trained ones are read once and copied."""
    reference, like = spec.student, teachers[0] if teachers else None
    if reference == COPY:
        if like is None:
            fix = "is missing, and there is no teacher to copy; name one, such as unet-32-64"
            raise InputError("student", "", fix)
        return lambda seed: trainable(like)
    kept = list[Denoiser]()

    def load(seed: int) -> Denoiser:
        with named("student"):
            return load_denoiser(reference, shape=shape, classes=classes, seed=seed, like=like)

    def student(seed: int) -> Denoiser:
        if is_fresh(reference):
            return load(seed).to(device)
        if not kept:
            kept.append(load(seed))
        return copy.deepcopy(kept[0]).to(device)

    return student


def _check_guidance(spec: RunSpec, teachers: Sequence[Denoiser]) -> None:
    """A guidance needs a model with classes that was also trained without them."""
    scale = typed_values(spec).get("guidance")
    if not teachers or not isinstance(scale, int | float) or scale == 1:
        return
    if not teachers[0].classes:
        raise InputError("method.guidance", scale, "needs a conditional teacher; this one has no classes: set it to 1")
    if not getattr(teachers[0].net, "null", True):
        fix = "needs a teacher with a null label; this one has an embedding of every class and no more: set it to 1"
        raise InputError("method.guidance", scale, fix)
