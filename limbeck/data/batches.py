"""Batches of images: typed, shuffled as a pure function of seed and epoch, resumed bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from limbeck.data.augment import augmentation
from limbeck.data.images import ImageSet
from limbeck.errors import InputError

__all__ = ["Batches", "Images"]


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


class Batches:
    """The batches of a set of images; every ``iter`` is the next epoch.

    The order of an epoch depends on ``seed`` and the epoch's number alone, so that a position is two integers.
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
        if batch < 1 or (drop_last and batch > len(data)):
            raise InputError(
                "batch", batch, f"must be at least 1, and at most {len(data)} when the last one is dropped"
            )
        if teacher_view not in ("same", "separate", "clean"):
            raise InputError("teacher_view", teacher_view, "is not one of 'same', 'separate', 'clean'")
        self.dataset = data
        self.batch, self.seed, self.shuffle, self.drop_last = batch, seed, shuffle, drop_last
        self.augment = augment
        self.teacher_view: Literal["same", "separate", "clean"] = teacher_view
        self._augment = augmentation(augment, data.shape) if isinstance(augment, str) else augment
        if teacher_view == "separate" and self._augment is None:
            raise InputError("teacher_view", teacher_view, "needs an augmentation: without one, all views are the same")
        self._epoch, self._taken, self._resumed = -1, 0, False

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Images]:
        if not self._resumed or self._epoch < 0 or self._taken >= len(self):
            self._epoch, self._taken = self._epoch + 1, 0
        self._resumed = False
        return self._run()

    def _run(self) -> Iterator[Images]:
        order = self._order(self._epoch).split(self.batch)
        for number in range(self._taken, len(self)):
            made = self._make(order[number])
            self._taken = number + 1  # before the yield: a checkpoint written by the consumer counts this batch
            yield made

    def _order(self, epoch: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(len(self.dataset))
        mixed = (
            self.seed * 0x9E3779B97F4A7C15 + epoch * 0xD1B54A32D192ED03
        ) % 2**63  # seed 0 epoch 1 != seed 1 epoch 0
        return torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(mixed))

    @torch.no_grad()
    def _make(self, index: Tensor) -> Images:
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

    def state_dict(self) -> dict[str, int]:
        """Where the stream is."""
        return {"seed": self.seed, "rows": len(self.dataset), "epoch": self._epoch, "taken": self._taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there: the next ``iter`` begins with the batch after the last one taken.

        Raises:
            InputError: when the position is one of other data or of another seed.
        """
        for name, mine in (("seed", self.seed), ("rows", len(self.dataset))):
            if state[name] != mine:
                raise InputError(f"checkpoint data {name}", state[name], f"is not this run's ({mine}); start a new run")
        self._epoch, self._taken, self._resumed = state["epoch"], state["taken"], True

    def plain(self, batch: int = 256) -> Batches:
        """The same images in their own order, unaugmented: for evaluation."""
        return Batches(self.dataset, batch, shuffle=False)

    def with_data(self, data: ImageSet) -> Self:
        """The same settings on other images, at the first epoch."""
        return type(self)(
            data, self.batch, seed=self.seed, shuffle=self.shuffle, drop_last=self.drop_last,
            augment=self.augment, teacher_view=self.teacher_view,
        )  # fmt: skip
