"""Tiny worlds to test methods in: a toy problem that convolutions learn, a trained teacher, a smaller student."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.checkpoint import Checkpoint
from limbeck.core.fit import fit
from limbeck.core.method import Method, Setting
from limbeck.core.modules import freeze
from limbeck.data.batches import Batches
from limbeck.data.images import ImageSet
from limbeck.models.classifier import Classifier
from limbeck.models.tiny import cnn

SHAPE, CLASSES = (3, 16, 16), ("ant", "bee", "cat", "dog", "eel", "fox")
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


@dataclass(frozen=True)
class VisionWorld:
    """Six classes of 3x16x16 images; every call and attribute is a pure function of the seed."""

    seed: int
    train: ImageSet
    test: ImageSet
    data: Batches
    teachers: tuple[Classifier, ...]

    def student(self, seed: int = 0) -> Classifier:
        """A fresh student, narrower than the teachers: stages (6, 8, 8) and (10, 8, 8), penultimate (10,)."""
        return _fresh(1000 * self.seed + seed, 6, 10)

    def batch(self, rows: int = 8) -> Any:
        """The first rows of the training set, as one batch."""
        return next(iter(self.data.plain(rows)))

    def setting(self, steps: int = 3, folder: Path | None = None) -> Setting:
        """What a run would hand to ``Method.distil``; with a folder, every fit keeps a checkpoint a step in it."""
        seeds = itertools.count()

        def run(method: Method, *, name: str = "fit", data: Iterable[Any] | None = None, steps: int = steps) -> None:
            source = self.data.with_data(self.train) if data is None else data
            kept = Checkpoint(folder / name, every=1, seconds=0) if folder is not None else None
            fit(method, source, SGD, steps=steps, checkpoint=kept)

        data = self.data.with_data(self.train)
        return Setting(lambda: self.student(next(seeds)), copy.deepcopy(self.teachers), data, steps, run)


def vision_world(seed: int = 0, *, teachers: int = 1, batch: int = 16) -> VisionWorld:
    """A world with its own copies: nothing that is done to it reaches another test."""
    train, test = _images(seed)
    trained = tuple(copy.deepcopy(_teacher(seed, k)) for k in range(teachers))
    return VisionWorld(seed, train, test, Batches(train, batch, seed=seed), trained)


def accuracy(model: Classifier, data: ImageSet) -> float:
    """Share of images whose class is found, in eval mode."""
    model.eval()
    with torch.no_grad():
        x, y = data.take(torch.arange(len(data)))
        return float((model(x).argmax(1) == y).float().mean())


@cache
def _images(seed: int) -> tuple[ImageSet, ImageSet]:
    """A smooth pattern a class, moved by up to two pixels, with noise."""
    drawn = torch.Generator().manual_seed(seed)
    patterns = F.interpolate(torch.rand(len(CLASSES), 3, 5, 5, generator=drawn), 16, mode="bicubic")
    labels = torch.arange(240) % len(CLASSES)
    moves = torch.randint(-2, 3, (240, 2), generator=drawn).tolist()
    clean = torch.stack([patterns[k].roll(move, (1, 2)) for k, move in zip(labels, moves, strict=True)])
    images = (clean + 0.15 * torch.randn(clean.shape, generator=drawn)).clamp(0, 1)
    whole = ImageSet((255 * images).to(torch.uint8), labels, CLASSES, "toy")
    return whole.subset(range(144)), whole.subset(range(144, 240))


def _fresh(seed: int, *widths: int) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cnn(*widths, shape=SHAPE, classes=CLASSES)


@cache
def _teacher(seed: int, number: int) -> Classifier:
    """Stages (12, 8, 8) and (20, 8, 8), penultimate (20,)."""
    teacher = _fresh(1_000_000 + 1000 * seed + number, 12, 20)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=1e-2)
    data = Batches(_images(seed)[0], 48, seed=number)
    for batch in itertools.islice(itertools.chain.from_iterable(itertools.repeat(data)), 30):
        loss: Tensor = F.cross_entropy(teacher(batch.x), batch.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return freeze(teacher)
