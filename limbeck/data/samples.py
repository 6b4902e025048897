"""Batches of samples for generative models: points, latents, and images in [-1, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from limbeck.data.images import ImageSet
from limbeck.data.stream import Stream
from limbeck.errors import InputError

__all__ = ["SampleBatches", "SampleSet", "Samples"]


class Samples(NamedTuple):
    """One batch.

    Args:
        x: (B, *shape) float32, in the units of the model: images in [-1, 1].
        y: (B,) int64, -1 where there is no label.
        index: (B,) int64, the sample's row in its set.
        noise: (B, *shape) the noise that a teacher made ``x`` from, where it did; else ``None``.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    noise: Tensor | None = None

    def to(self, device: torch.device | str) -> Samples:
        """The same batch on a device."""
        x, y, index = (part.to(device, non_blocking=True) for part in self[:3])
        return Samples(x, y, index, None if self.noise is None else self.noise.to(device, non_blocking=True))


@dataclass(frozen=True, eq=False)
class SampleSet:
    """Samples of one shape with labels.

    Args:
        x: (N, *shape): float in the model's units, or uint8 images, which are read as ``x / 127.5 - 1``.
        y: (N,) int64, rows of ``classes``; -1 where unknown.
        classes: the classes' names; none for samples without labels.
        name: what messages and reports call it.
        noise: (N, *shape), of pairs that a teacher made.

    Raises:
        InputError: naming what is wrong.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...] = ()
    name: str = "samples"
    noise: Tensor | None = None

    def __post_init__(self) -> None:
        if not len(self.x) or self.x.ndim < 2:
            raise InputError(self.name, list(self.x.shape), "is the samples' shape; it must be (N, ...), N at least 1")
        if self.y.shape != (len(self.x),) or self.y.dtype != torch.int64:
            said = f"{self.y.dtype} {list(self.y.shape)}"
            raise InputError(self.name, said, f"are the labels; they must be int64 of shape ({len(self.x)},)")
        if int(self.y.max()) >= max(len(self.classes), 1) or int(self.y.min()) < -1:
            raise InputError(self.name, int(self.y.max()), f"is a label; there are {len(self.classes)} classes, from 0")
        if self.noise is not None and self.noise.shape != self.x.shape:
            raise InputError(
                self.name, list(self.noise.shape), f"is the noise's shape; it must be {list(self.x.shape)}"
            )
        if self.x.is_floating_point() and not torch.isfinite(self.x).all():
            raise InputError(self.name, "nan or infinity", "is among the samples; leave such rows out")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(self.x.shape[1:])

    @classmethod
    def of(cls, images: ImageSet) -> Self:
        """A set of images, as generative models see it."""
        x = images.images if images.images.dtype == torch.uint8 else 2 * images.images - 1
        return cls(x, images.labels, images.classes, images.name)

    def take(self, index: Tensor) -> Samples:
        """The samples of these rows."""
        x = self.x[index]
        x = x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x.float()
        return Samples(x, self.y[index], index, None if self.noise is None else self.noise[index])

    def subset(self, rows: Tensor) -> SampleSet:
        """These rows alone."""
        noise = None if self.noise is None else self.noise[rows]
        return SampleSet(self.x[rows], self.y[rows], self.classes, self.name, noise)


class SampleBatches(Stream[Samples]):
    """The batches of a set of samples; every ``iter`` is the next epoch.

    Args:
        data: the samples.
        batch: how many a batch.
        seed: of the order.
        shuffle: a new order every epoch.
        drop_last: leave out a last batch that is not full.
    """

    def __init__(
        self, data: SampleSet, batch: int, *, seed: int = 0, shuffle: bool = True, drop_last: bool = False
    ) -> None:
        super().__init__(len(data), batch, seed=seed, shuffle=shuffle, drop_last=drop_last)
        self.data = data

    def make(self, index: Tensor) -> Samples:
        return self.data.take(index)

    def plain(self, batch: int = 256) -> SampleBatches:
        """The same samples in their own order."""
        return SampleBatches(self.data, batch, shuffle=False)

    def with_data(self, data: SampleSet) -> SampleBatches:
        """The same settings on other samples, at the first epoch."""
        return SampleBatches(data, self.batch, seed=self.seed, shuffle=self.shuffle, drop_last=self.drop_last)
