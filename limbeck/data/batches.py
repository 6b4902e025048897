"""Batches of images: typed, shuffled as a pure function of seed and epoch, resumed bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from limbeck.data.augment import augmentation
from limbeck.data.images import ImageSet
from limbeck.data.stream import Stream
from limbeck.errors import InputError

__all__ = ["Batches", "Images", "images_behind"]


class Images(NamedTuple):
    """One batch.

    Args:
        x: (B, C, H, W) float32 in [0, 1].
        y: (B,) int64, -1 where the class is unknown.
        index: (B,) int64, the sample's row in the training set.
        view: what the teacher sees where that is another view of the same samples, shaped like ``x``; else ``None``.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    view: Tensor | None = None

    @property
    def teacher_x(self) -> Tensor:
        """What the teacher sees: ``view`` where there is one, else ``x`` itself."""
        return self.x if self.view is None else self.view

    def to(self, device: torch.device | str) -> Images:
        """The same batch on a device."""
        x, y, index = (part.to(device, non_blocking=True) for part in self[:3])
        return Images(x, y, index, None if self.view is None else self.view.to(device, non_blocking=True))


class Batches(Stream[Images]):
    """The batches of a set of images; every ``iter`` is the next epoch.

    Augmentations draw from torch's global generator, whose state a checkpoint keeps.

    Args:
        data: the images.
        batch: samples a batch.
        seed: of the order.
        shuffle: a new order every epoch; otherwise the rows' own.
        drop_last: leave out a last batch that is not full.
        augment: a name such as ``"crop+flip"`` (see :func:`limbeck.data.augment.augmentation`), or a function of
            (B, C, H, W) in [0, 1].
        teacher_view: ``same``: the teacher sees what the student sees (function matching, Beyer et al. 2022);
            ``separate``: another draw of the augmentation; ``clean``: the image as it is.

    Raises:
        InputError: for sizes or names that cannot be.
    """

    def __init__(
        self,
        data: ImageSet,
        batch: int = 64,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        augment: str | Callable[[Tensor], Tensor] | None = None,
        teacher_view: Literal["same", "separate", "clean"] = "same",
    ) -> None:
        super().__init__(len(data), batch, seed=seed, shuffle=shuffle, drop_last=drop_last)
        if teacher_view not in ("same", "separate", "clean"):
            raise InputError("teacher_view", teacher_view, "is not one of 'same', 'separate', 'clean'")
        self.dataset = data
        self.augment = augment
        self.teacher_view: Literal["same", "separate", "clean"] = teacher_view
        self._augment = augmentation(augment, data.shape) if isinstance(augment, str) else augment
        if teacher_view == "separate" and self._augment is None:
            raise InputError("teacher_view", teacher_view, "needs an augmentation: without one, all views are the same")

    @torch.no_grad()
    def make(self, index: Tensor) -> Images:
        clean, y = self.dataset.take(index)
        if self._augment is None:
            return Images(clean, y, index)
        x = self._augment(clean)
        match self.teacher_view:
            case "separate":
                return Images(x, y, index, self._augment(clean))
            case "clean":
                return Images(x, y, index, clean)
            case _:
                return Images(x, y, index)

    def plain(self, batch: int = 256) -> Batches:
        """The same images in their own order, unaugmented: for evaluation."""
        return Batches(self.dataset, batch, shuffle=False)

    def with_data(self, data: ImageSet) -> Self:
        """The same settings on other images, at the first epoch."""
        return type(self)(
            data, self.batch, seed=self.seed, shuffle=self.shuffle, drop_last=self.drop_last,
            augment=self.augment, teacher_view=self.teacher_view,
        )  # fmt: skip


def images_behind(data: object) -> ImageSet:
    """The set of images that some batches come from.

    Raises:
        InputError: when there is none.
    """
    found = getattr(data, "dataset", None)
    if not isinstance(found, ImageSet):
        raise InputError("data", type(data).__name__, "has no set of images behind it; pass Batches of one")
    return found
