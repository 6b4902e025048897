"""Batches of rows in an order that is a pure function of seed and epoch, so that a position is two integers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor

from limbeck.errors import InputError

__all__ = ["Stream"]

B = TypeVar("B")


class Stream(Generic[B]):
    """Every ``iter`` is the next epoch; a subclass makes a batch of row numbers.

    Args:
        rows: how many there are.
        batch: rows a batch.
        seed: of the order.
        shuffle: a new order every epoch; otherwise the rows' own.
        drop_last: leave out a last batch that is not full.

    Raises:
        InputError: for a batch that cannot be.
    """

    def __init__(self, rows: int, batch: int, *, seed: int, shuffle: bool, drop_last: bool) -> None:
        if batch < 1 or (drop_last and batch > rows):
            raise InputError("batch", batch, f"must be at least 1, and at most {rows} when the last one is dropped")
        self.rows, self.batch, self.seed, self.shuffle, self.drop_last = rows, batch, seed, shuffle, drop_last
        self._epoch, self._taken, self._resumed = -1, 0, False

    def make(self, index: Tensor) -> B:
        """The batch of these rows, (B,) int64."""
        raise NotImplementedError

    def __len__(self) -> int:
        whole, rest = divmod(self.rows, self.batch)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[B]:
        if not self._resumed or self._epoch < 0 or self._taken >= len(self):
            self._epoch, self._taken = self._epoch + 1, 0
        self._resumed = False
        return self._run()

    def _run(self) -> Iterator[B]:
        order = self._order(self._epoch).split(self.batch)
        for number in range(self._taken, len(self)):
            made = self.make(order[number])
            self._taken = number + 1  # before the yield: a checkpoint written by the consumer counts this batch
            yield made

    def _order(self, epoch: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.rows)
        return torch.randperm(self.rows, generator=self._drawn(epoch))

    def _drawn(self, epoch: int) -> torch.Generator:
        """Chance of an epoch; seed 0 in epoch 1 is not seed 1 in epoch 0."""
        mixed = (self.seed * 0x9E3779B97F4A7C15 + epoch * 0xD1B54A32D192ED03) % 2**63
        return torch.Generator().manual_seed(mixed)

    def state_dict(self) -> dict[str, int]:
        """Where the stream is."""
        return {"seed": self.seed, "rows": self.rows, "epoch": self._epoch, "taken": self._taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there: the next ``iter`` begins with the batch after the last one taken.

        Raises:
            InputError: when the position is one of other data or of another seed.
        """
        for name, mine in (("seed", self.seed), ("rows", self.rows)):
            if state[name] != mine:
                raise InputError(f"checkpoint data {name}", state[name], f"is not this run's ({mine}); start a new run")
        self._epoch, self._taken, self._resumed = state["epoch"], state["taken"], True
