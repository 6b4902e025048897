"""Whose features distances are measured in: a small classifier of the same images, trained once for a data set."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

from limbeck.core.checkpoint import atomic_folder
from limbeck.core.fit import fit
from limbeck.core.modules import Taps, freeze
from limbeck.core.schedule import Cosine
from limbeck.data.batches import Batches
from limbeck.data.images import DataPair
from limbeck.errors import InputError
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.classifier import Classifier
from limbeck.models.load import seeded
from limbeck.models.tiny import cnn
from limbeck.run.control import cache_folder

__all__ = ["Judge", "judge_of"]

WIDTHS = (32, 64)
STEPS, BATCH, RATE = 800, 64, 3e-3
VERSION = 1  # of how it is trained, which its place in the cache depends on
ROWS = 500  # images a forward pass


@dataclass(frozen=True)
class Judge:
    """A classifier, its features and how far it can be trusted.

    Args:
        net: reads images in [0, 1].
        accuracy: on the held-out images; ``None`` where there are not two classes to learn from, so that its weights
            are the random ones it began with.
    """

    net: Classifier
    accuracy: float | None

    @torch.no_grad()
    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, 64) and the classes it sees (N,), on the CPU, of images (N, C, H, W) in [-1, 1]."""
        seen, classes = list[Tensor](), list[Tensor]()
        for part in x.split(ROWS):
            logits, (feature,) = Taps(f"{self.net.head}:in")(self.net, ((part.clamp(-1, 1) + 1) / 2).to(self.net.mean))
            seen.append(feature.cpu())
            classes.append(logits.argmax(1).cpu())
        return torch.cat(seen), torch.cat(classes)

    @property
    def said(self) -> str:
        """What the features are of, in words."""
        size = f"{WIDTHS[-1]} features of a small convolutional network"
        if self.accuracy is None:
            return f"{size} with random weights, as there are not two classes to learn from"
        right = f"{100 * self.accuracy:.1f} % right on held-out images"
        return f"{size} that was trained to tell the classes apart ({right})"


def judge_of(data: DataPair, device: torch.device) -> Judge:
    """The judge of a data set: from the cache, or trained now on the training images and kept."""
    net = freeze(_fresh(data))
    known = len(data.train.classes) > 1 and bool((data.train.labels >= 0).any())
    if not known:
        return Judge(net.to(device), None)
    facts = f"{VERSION} {WIDTHS} {STEPS} {BATCH} {RATE} {data.train.fingerprint} {data.test.fingerprint}"
    name = hashlib.sha256(f"{facts} {torch.__version__}".encode()).hexdigest()[:24]
    kept = cache_folder().parent / "judges" / name
    try:
        accuracy = float(json.loads((kept / "judge.json").read_text())["accuracy"])
        load_model(net, kept / "model.safetensors")
        return Judge(net.to(device), accuracy)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        pass  # none there, or damaged: it is trained
    net, accuracy = _trained(data)
    try:
        with atomic_folder(kept) as part:
            save_model(net, str(part / "model.safetensors"))
            (part / "judge.json").write_text(json.dumps({"accuracy": accuracy}))
    except InputError as error:  # a run does not fail because its judge could not be kept for others
        warnings.warn(f"the judge was not cached: {error}", stacklevel=2)
    return Judge(freeze(net).to(device), accuracy)


def _fresh(data: DataPair) -> Classifier:
    with seeded(0):
        return cnn(*WIDTHS, shape=data.train.shape, classes=data.train.classes)


def _trained(data: DataPair) -> tuple[Classifier, float]:
    """On labelled images; how it does on the held-out ones."""
    labelled = data.train.subset((data.train.labels >= 0).nonzero()[:, 0])
    net: Any = _fresh(data)
    with seeded(0):
        batches = Batches(labelled, min(BATCH, len(labelled)), seed=0, drop_last=True)
        fit(Supervised(net), batches, partial(torch.optim.AdamW, lr=RATE), steps=STEPS, lr=Cosine())
    net.eval()
    judge, test = Judge(net, 0.0), data.test.subset((data.test.labels >= 0).nonzero()[:, 0])
    x, y = test.take(torch.arange(len(test)))
    return net, float((judge.look(2 * x - 1)[1] == y).float().mean())
