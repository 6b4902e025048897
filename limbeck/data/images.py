"""Images in memory, with labels, class names and a hash of every sample's content."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from limbeck.errors import InputError

__all__ = ["DataPair", "ImageSet"]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one shape and their labels. What it holds is checked when it is built.

    Args:
        images: (N, C, H, W): uint8 in 0..255, or float in [0, 1].
        labels: (N,) int64, a row of ``classes`` each; -1 where unknown.
        classes: the classes' names.
        name: what messages and reports call it.

    Raises:
        InputError: naming what is wrong and in which row.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str = "images"

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or 0 in images.shape:
            raise InputError(
                self.name, list(images.shape), "is the images' shape; it must be (N, C, H, W), none of them 0"
            )
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise InputError(self.name, str(images.dtype), "is the images' type; it must be uint8 or float")
        if labels.shape != (len(images),) or labels.dtype != torch.int64:
            said = f"{labels.dtype} {list(labels.shape)}"
            raise InputError(self.name, said, f"are the labels; they must be int64 of shape ({len(images)},)")
        if len(set(self.classes)) != len(self.classes):
            raise InputError(self.name, ", ".join(self.classes), "are the classes; their names must differ")
        wrong = (labels < -1) | (labels >= len(self.classes))
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise InputError(
                f"{self.name}, row {row}",
                int(labels[row]),
                f"is its label; there are {len(self.classes)} classes, from 0",
            )
        if images.is_floating_point():
            if not images.isfinite().all():
                row = int((~images.isfinite()).flatten(1).any(1).nonzero()[0])
                raise InputError(f"{self.name}, row {row}", "NaN", "or infinity is among its pixels; repair or drop it")
            low, high = float(images.min()), float(images.max())
            if low < 0.0 or high > 1.0:
                raise InputError(self.name, f"{low:.4g} to {high:.4g}", "is the pixels' range; scale floats to [0, 1]")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Some rows: x (B, C, H, W) float32 in [0, 1] and y (B,)."""
        x = self.images[rows]
        return (x.float().div_(255) if x.dtype == torch.uint8 else x.float()), self.labels[rows]

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """A hash of every image's content, in 16 hexadecimal digits: the same in every order, subset and process."""
        head = f"{self.images.dtype}{list(self.shape)}".encode()
        rows = self.images.contiguous().cpu().numpy()
        return tuple(hashlib.sha256(head + row.tobytes()).hexdigest()[:16] for row in rows)

    @cached_property
    def fingerprint(self) -> str:
        """One hash of the whole set: contents, labels, class names and order."""
        said = hashlib.sha256("\n".join((*self.classes, "", *self.hashes)).encode())
        said.update(self.labels.numpy().tobytes())
        return said.hexdigest()[:16]

    def subset(self, rows: Iterable[int] | Tensor) -> ImageSet:
        """The given rows in the given order; they are numbered anew, from 0."""
        chosen = torch.as_tensor(rows if isinstance(rows, Tensor) else list(rows), dtype=torch.int64)
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])

    def split(self, fraction: float, seed: int = 0) -> tuple[ImageSet, ImageSet]:
        """Two disjoint sets ``(rest, part)``, where ``part`` has ``fraction`` of every class.

        Who goes where depends on the content and the seed, not on the rows' order, and equal images of a class stay
        together, so that the two never share one.

        Raises:
            InputError: when one of them would be empty.
        """
        if not 0.0 < fraction < 1.0:
            raise InputError("fraction", fraction, "must be between 0 and 1")
        place = torch.tensor(self._places(seed))
        rest, part = (place >= fraction).nonzero()[:, 0], (place < fraction).nonzero()[:, 0]
        if not len(rest) or not len(part):
            raise InputError(self.name, len(self), f"images are too few to take {fraction:g} of every class away")
        return self.subset(rest), self.subset(part)

    def limited(self, *, count: int | None = None, per_class: int | None = None, seed: int = 0) -> ImageSet:
        """At most ``count`` rows in all, or ``per_class`` of each, in their order; smaller choices lie in larger ones.

        Raises:
            InputError: when neither or both are given, or a number is not positive.
        """
        if (count is None) == (per_class is None):
            raise InputError("limit", f"count={count}, per_class={per_class}", "takes exactly one of the two")
        wanted = count if count is not None else per_class
        if wanted is None or wanted < 1:
            raise InputError("limit", wanted, "must be at least 1")
        place = self._places(seed)
        order = sorted(range(len(self)), key=place.__getitem__)
        if per_class is not None:
            seen = defaultdict[int, int](int)
            labels, kept = self.labels.tolist(), list[int]()
            for row in order:
                seen[labels[row]] += 1
                if seen[labels[row]] <= per_class:
                    kept.append(row)
            return self.subset(sorted(kept))
        return self.subset(sorted(order[:wanted]))

    def _places(self, seed: int) -> list[float]:
        """A place in [0, 1) in its class for every row, drawn from contents and seed; equal images share one."""
        keys = [hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in self.hashes]
        members = defaultdict[int, list[int]](list)
        for row, label in enumerate(self.labels.tolist()):
            members[label].append(row)
        places = [0.0] * len(self)
        for rows in members.values():
            rows.sort(key=keys.__getitem__)
            for rank, row in enumerate(rows):
                twin = rank > 0 and keys[row] == keys[rows[rank - 1]]
                places[row] = places[rows[rank - 1]] if twin else (rank + 0.5) / len(rows)
        return places


class DataPair(NamedTuple):
    """What is trained on, and what nothing is chosen by until the end."""

    train: ImageSet
    test: ImageSet
