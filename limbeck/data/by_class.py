"""Batches that hold as many images of every class: what class statistics are matched on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from limbeck.data.batches import Images
from limbeck.data.images import ImageSet
from limbeck.data.stream import Stream
from limbeck.errors import InputError

__all__ = ["ClassBatches"]


class ClassBatches(Stream[Images]):
    """Every batch has ``per_class`` images of class 0, then as many of class 1, ...; each class goes through its own
    images in an order of its own. An epoch ends when the smallest class is through; images without a label are left
    out.

    Args:
        data: the images.
        per_class: of every batch; a class with fewer gives all that it has, so that batches may be smaller.
        seed: of the orders.
        augment: of (B, C, H, W) in [0, 1].

    Raises:
        InputError: for a class without images.
    """

    def __init__(
        self, data: ImageSet, per_class: int, *, seed: int = 0, augment: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        own = [(data.labels == k).nonzero().squeeze(1) for k in range(len(data.classes))]
        counts = [len(rows) for rows in own]
        if not min(counts):
            raise InputError(data.name, data.classes[counts.index(0)], "is a class without images; leave it out")
        self.per_class = [min(per_class, count) for count in counts]
        turns = min(count // taken for count, taken in zip(counts, self.per_class, strict=True))
        super().__init__(turns * sum(self.per_class), sum(self.per_class), seed=seed, shuffle=True, drop_last=False)
        self.dataset, self.own, self.augment = data, own, augment

    def _order(self, epoch: int) -> Tensor:
        turns, drawn = self.rows // self.batch, self._drawn(epoch)
        shuffled = [rows[torch.randperm(len(rows), generator=drawn)] for rows in self.own]
        parts = [
            rows[turn * taken : (turn + 1) * taken]
            for turn in range(turns)
            for rows, taken in zip(shuffled, self.per_class, strict=True)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def make(self, index: Tensor) -> Images:
        x, y = self.dataset.take(index)
        return Images(x if self.augment is None else self.augment(x), y, index)
