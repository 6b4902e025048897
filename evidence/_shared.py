"""What the experiments share: data, a training recipe, and the test accuracy in per cent."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck import Method, fit
from limbeck.core.method import MakeOptimizer
from limbeck.core.schedule import Cosine
from limbeck.data.batches import Batches
from limbeck.data.images import DataPair, ImageSet
from limbeck.data.load import load_data

__all__ = ["accuracy", "batches", "images", "probabilities", "train"]


def images(data: Path | None) -> DataPair:
    """The data set to check a claim on: any set of images, scikit-learn's digits by default."""
    return load_data(str(data) if data is not None else "digits")


def batches(data: ImageSet, seed: int, batch: int = 64) -> Batches:
    """Shuffled training batches without augmentation."""
    return Batches(data, batch, seed=seed)


def train(
    method: Method,
    data: Any,
    steps: int,
    lr: float = 3e-3,
    weight_decay: float = 1e-4,
    optimizer: MakeOptimizer | None = None,
) -> Method:
    """AdamW (or another optimiser) with a cosine to zero: the same recipe for every arm."""
    adamw = partial(torch.optim.AdamW, lr=lr, weight_decay=weight_decay)
    fit(method, data, optimizer or adamw, steps=steps, lr=Cosine())
    return method.eval()


@torch.no_grad()
def probabilities(model: nn.Module, data: ImageSet) -> torch.Tensor:
    """Class probabilities (N, K) of a whole set, in eval mode, in its order."""
    model.eval()
    return torch.cat([model(b.x).softmax(1) for b in Batches(data, 256, shuffle=False).plain()])


def accuracy(model: nn.Module, data: ImageSet) -> float:
    """Test accuracy, %."""
    return 100.0 * float((probabilities(model, data).argmax(1) == data.labels).float().mean())
