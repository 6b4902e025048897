"""What the experiments share: data, a training recipe, and the test accuracy in per cent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from limbeck import Method, fit
from limbeck.core.checkpoint import atomic_folder
from limbeck.core.method import MakeOptimizer
from limbeck.core.modules import freeze
from limbeck.core.schedule import Cosine
from limbeck.data.batches import Batches
from limbeck.data.images import DataPair, ImageSet
from limbeck.data.load import load_data
from limbeck.models.load import seeded
from limbeck.run.control import cache_folder

__all__ = ["accuracy", "batches", "fresh", "images", "kept", "probabilities", "train"]

M = TypeVar("M", bound=nn.Module)


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


def fresh(seed: int, make: Callable[[], M]) -> M:
    """A network whose weights depend on the seed alone; the caller's random state is left as it was."""
    with seeded(seed):
        return make()


def kept(model: M, facts: str, seed: int, learn: Callable[[M], object]) -> M:
    """A model with the weights of a former call with the same facts, or trained now under the seed and kept; frozen.

    The place is the cache folder (``LIMBECK_CACHE``, by default ``~/.cache/limbeck``).
    """
    name = hashlib.sha256(f"{facts} {torch.__version__}".encode()).hexdigest()[:24]
    folder = cache_folder().parent / "evidence" / name
    if (folder / "model.safetensors").is_file():
        load_model(model, folder / "model.safetensors")
        return freeze(model)
    with seeded(seed):
        learn(model)
    with atomic_folder(folder) as part:
        save_model(model, str(part / "model.safetensors"))
    return freeze(model)
