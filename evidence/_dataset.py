"""What experiments with distilled data sets share: a run of a method, fresh networks trained on what it made."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from statistics import fmean

import torch

from evidence._shared import accuracy, fresh, images, kept
from limbeck import Method, fit
from limbeck.core.method import Setting
from limbeck.data.augment import augmentation
from limbeck.data.batches import Batches
from limbeck.data.images import DataPair, ImageSet
from limbeck.methods.dataset.real_subset import RealSubset
from limbeck.models.classifier import Classifier
from limbeck.models.load import load_classifier, seeded
from limbeck.models.pretraining import embed
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.use import Use

__all__ = ["distilled", "encoder", "judged", "net", "sets", "subset"]

NET = "convnet-32x2"


def sets(data: Path | None, limit: int = 1000) -> DataPair:
    """Training and test images: scikit-learn's digits by default, the test set cut to ``limit`` images."""
    pair = images(data)
    return DataPair(pair.train, pair.test.limited(count=min(limit, len(pair.test))))


def net(data: ImageSet, seed: int, kind: str = NET) -> Classifier:
    """A fresh network for images of this shape."""
    return fresh(seed, lambda: load_classifier(kind, shape=data.shape, classes=data.classes))


def distilled(
    method: type[Method], data: ImageSet, seed: int, *, steps: int, values: dict[str, object], lr: float = 0.01,
    teachers: tuple[Classifier, ...] = (), kind: str = NET,
) -> SyntheticSet:  # fmt: skip
    """A method's whole procedure under the seed: Adam on pixels in [0, 1]."""
    real = data

    def run(built: Method, *, name: str = "fit", data: object = None, steps: int = steps) -> None:
        source = Batches(real, 64, seed=seed) if data is None else data
        fit(built, source, partial(torch.optim.Adam, lr=lr), steps=steps)  # type: ignore[arg-type]

    with seeded(seed):
        setting = Setting(
            lambda: net(data, int(torch.randint(2**31, ())), kind), teachers, Batches(data, 64, seed=seed), steps, run
        )
        made = method.distil(setting, values)
    assert isinstance(made, SyntheticSet)
    return made


def subset(data: ImageSet, per_class: int, seed: int, use: Use | None = None, factor: int = 1) -> SyntheticSet:
    """As many real images, chosen at random, used in the same way."""
    with seeded(seed):
        made = RealSubset(data, per_class=per_class, factor=factor).student
    made.use = copy.deepcopy(use) if use is not None else made.use
    return made


def judged(
    made: SyntheticSet, test: ImageSet, seed: int, *, nets: int = 3, kind: str = NET, use: Use | None = None
) -> float:
    """Mean test accuracy, %, of fresh networks that were trained on a set in its own way (or another)."""
    found: list[float] = []
    for k in range(nets):
        student = net(test, 1000 * seed + 7 + k, kind)
        with seeded(1000 * seed + k):
            (use or made.use)(student, made)
        found.append(accuracy(student, test))
    return fmean(found)


def encoder(data: ImageSet, seed: int) -> Classifier:
    """An encoder that has seen no label: Barlow Twins (Zbontar et al. 2021, https://arxiv.org/abs/2103.03230)
    without its projector, 250 steps."""
    x, _ = data.take(torch.arange(len(data)))
    change = augmentation("shift+rotate+erase", data.shape)
    assert change is not None

    def learn(model: Classifier) -> None:
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(250):
            rows = torch.randperm(len(x))[:256]
            z = [embed(model, change(x[rows])) for _ in range(2)]
            a, b = ((f - f.mean(0)) / (f.std(0) + 1e-4) for f in z)
            c = a.T @ b / len(rows)
            diagonal = c.diagonal().square().sum()
            optimizer.zero_grad()
            ((c.diagonal() - 1).square().sum() + 5e-3 * (c.square().sum() - diagonal)).backward()
            optimizer.step()

    return kept(net(data, seed), f"barlow {NET} {data.fingerprint} {seed}", seed, learn)
