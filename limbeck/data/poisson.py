"""Poisson sampling: every row is in a batch or not by a coin of its own, as privacy accounting assumes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from limbeck.data.tokens import TokenBatches, Tokens

__all__ = ["PoissonBatches"]


class PoissonBatches(TokenBatches):
    """As :class:`TokenBatches`, but each batch takes each row with probability batch / rows, independently.

    A batch has ``batch`` rows on average and may have none: its tensors are (0, T) then. ``shuffle`` and ``drop_last``
    mean nothing here. Draws are a function of seed, epoch and number, so that a position is still two integers.
    """

    def make(self, index: Tensor) -> Tokens:
        if len(index):
            return super().make(index)
        one = super().make(torch.zeros(1, dtype=torch.int64))
        return Tokens(*(part[:0] for part in one[:5]))

    def _run(self) -> Iterator[Tokens]:
        for number in range(self._taken, len(self)):
            mixed = self.seed * 0x9E3779B97F4A7C15 + self._epoch * 0xD1B54A32D192ED03 + number * 0xA24BAED4963EE407
            coins = torch.rand(self.rows, generator=torch.Generator().manual_seed(mixed % 2**63))
            made = self.make((coins < self.batch / self.rows).nonzero()[:, 0])
            self._taken = number + 1  # before the yield, as in the base
            yield made
