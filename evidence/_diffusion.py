"""What the experiments on diffusion and flow models share: a ring in the plane, digits, teachers, a recipe, and
measures.

Teachers are trained once for a seed and their settings and kept in the cache folder (``LIMBECK_CACHE``, by default
``~/.cache/limbeck``): many experiments learn from the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evidence._shared import fresh, images, kept
from limbeck import Method, fit
from limbeck.core.method import Setting
from limbeck.core.modules import Taps
from limbeck.core.schedule import Cosine
from limbeck.data.batches import Batches
from limbeck.data.samples import SampleBatches, SampleSet
from limbeck.diagnostics.generation import frechet, modes, sliced_wasserstein
from limbeck.methods.classification.supervised import Supervised
from limbeck.methods.diffusion.denoising import Denoising
from limbeck.models.classifier import Classifier
from limbeck.models.denoiser import Denoiser
from limbeck.models.gaussian_mixture import GaussianMixture, ring
from limbeck.models.sampling import Ode, Sampler
from limbeck.models.tiny import cnn
from limbeck.models.tiny_denoiser import mlp

__all__ = [
    "accuracy_of", "batches", "digits", "digits_teacher", "distilled", "features", "images", "judge", "kept", "made",
    "points", "ring_teacher", "swd", "train", "world",
]  # fmt: skip


def world(classes: int = 1, modes: int = 8) -> GaussianMixture:
    """Eight narrow modes on the unit circle, with as many classes of neighbouring modes as asked."""
    return ring(modes, std=0.06, classes=classes)


def points(mixture: GaussianMixture, count: int = 20_000, seed: int = 0) -> SampleSet:
    """Samples of a mixture, with labels where it has classes."""
    x, y = mixture.sample(count, torch.Generator().manual_seed(1000 + seed))
    names = tuple(map(str, range(mixture.classes))) if mixture.classes > 1 else ()
    return SampleSet(x, y if names else torch.full_like(y, -1), names, "ring")


def batches(data: SampleSet, seed: int, batch: int = 512) -> SampleBatches:
    """Shuffled training batches."""
    return SampleBatches(data, min(batch, len(data)), seed=seed, drop_last=True)


def train(method: Method, data: Any, steps: int, lr: float = 1e-3, clip: float | None = 1.0) -> Method:
    """Adam with a cosine to zero, gradients clipped at 1: the same recipe for every arm."""
    adam = partial(torch.optim.AdamW, lr=lr, weight_decay=0.0, betas=(0.9, 0.99))
    fit(method, data, adam, steps=steps, lr=Cosine(), clip=clip)
    return method.eval()


def distilled(
    method: type[Method], student: Callable[[], nn.Module], teacher: nn.Module, data: Any, budget: int,
    lr: float = 1e-3, **values: Any,
) -> Any:  # fmt: skip
    """What a method's whole procedure makes, every stage under the recipe."""

    def run(part: Method, *, name: str = "fit", data: Any = data, steps: int = budget) -> None:
        train(part, data, steps, lr)

    return method.distil(Setting(student, [teacher], data, budget, run), values)


def ring_teacher(seed: int, classes: int = 1, width: int = 96, steps: int = 4000) -> Denoiser:
    """A flow on the ring: a perceptron that predicts velocities, trained with a tenth of the labels left out."""
    model = fresh(10_000 + seed, lambda: mlp(width, 3, classes=classes if classes > 1 else 0))

    def learn(model: Denoiser) -> None:
        train(Denoising(model), batches(points(world(classes), seed=seed), seed), steps, lr=3e-3)

    return kept(model, f"ring {seed} {classes} {width} {steps}", seed, learn)


def digits(data: Path | None) -> SampleSet:
    """The training images in [-1, 1]."""
    return SampleSet.of(images(data).train)


def digits_teacher(data: Path | None, seed: int, width: int = 256, steps: int = 4000) -> Denoiser:
    """A class-conditional flow on the images: a perceptron that predicts velocities, a tenth of the labels left out."""
    pair = images(data)
    shape, classes = pair.train.shape, pair.train.classes
    model = fresh(20_000 + seed, lambda: mlp(width, 3, shape=shape, classes=classes))

    def learn(model: Denoiser) -> None:
        train(Denoising(model), batches(SampleSet.of(pair.train), seed, 128), steps, lr=2e-3)

    return kept(model, f"images {pair.train.fingerprint} {seed} {width} {steps}", seed, learn)


def judge(data: Path | None, seed: int = 0) -> Classifier:
    """A classifier of the images, 64 features wide: the stated feature space of Frechet distances, and a judge of
    labels."""
    pair = images(data)
    model = fresh(30_000 + seed, lambda: cnn(32, 64, shape=pair.train.shape, classes=pair.train.classes))

    def learn(model: Classifier) -> None:
        train(Supervised(model), Batches(pair.train, 64, seed=seed), 1500, lr=3e-3)

    return kept(model, f"judge {pair.train.fingerprint} {seed}", seed, learn)


@torch.no_grad()
def features(judge: Classifier, x: Tensor) -> Tensor:
    """The judge's penultimate features (N, 64) of images in [-1, 1]."""
    _, (seen,) = Taps(f"{judge.head}:in")(judge, (x.clamp(-1, 1) + 1) / 2)
    return seen


@torch.no_grad()
def accuracy_of(judge: Classifier, x: Tensor, y: Tensor) -> float:
    """How often the judge sees the asked class, %."""
    return 100.0 * float((judge((x.clamp(-1, 1) + 1) / 2).argmax(1) == y).float().mean())


def made(
    model: Any, count: int = 4000, seed: int = 0, y: Tensor | None = None, sampler: Sampler | None = None
) -> tuple[Tensor, Tensor | None]:
    """Samples from the same noise for every model, and their labels: all classes alike where there are some."""
    drawn = torch.Generator().manual_seed(777 + seed)
    noise = model.noise(count, drawn)
    if y is None and model.classes:
        y = torch.arange(count) % len(model.classes)
    return model.generate(noise, y, sampler=sampler, generator=drawn), y


def swd(model: Any, mixture: GaussianMixture, seed: int = 0, sampler: Sampler | None = None) -> tuple[float, int]:
    """Sliced Wasserstein distance to the mixture, and how many of its modes are covered."""
    x, _ = made(model, seed=seed, sampler=sampler)
    true, _ = mixture.sample(len(x), torch.Generator().manual_seed(888 + seed))
    return sliced_wasserstein(x, true), modes(x, mixture.means, mixture.std)[0]


def fid(model: Any, judge: Classifier, data: SampleSet, seed: int = 0, sampler: Sampler | None = None) -> float:
    """Frechet distance to the training images in the judge's features."""
    x, _ = made(model, 2000, seed, sampler=sampler)
    true = data.take(torch.arange(len(data))).x
    return frechet(features(judge, x), features(judge, true))


TEACHER = Ode(50, "dpm2m")
