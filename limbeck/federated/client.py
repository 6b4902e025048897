"""A client: the rows it has, its own state, and batches of its rows in an order that seed and round decide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from limbeck.data.images import ImageSet
from limbeck.federated.payload import Payload

__all__ = ["Client", "mixed"]


@dataclass(eq=False)
class Client:
    """What a method sees while it works at a client.

    Args:
        number: 0, 1, ... among all clients; Flower's ``partition-id``.
        train: its rows.
        test: rows it does not train on, for :meth:`judge`; ``None`` without any.
        state: what is personal. It stays here, survives the rounds in which the client is not asked, and is empty
            before the first; in Flower it is ``Context.state``.
        round: the number of the round, from 0; set by every message.
    """

    number: int
    train: ImageSet
    test: ImageSet | None = None
    state: Payload = field(default_factory=dict)
    round: int = 0

    def batches(self, epochs: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled batches x (B, C, H, W), y (B,) of its rows; one that would hold a single row is left out.

        Draws from torch's global generator, which is begun anew for every message from seed, round and client.
        """
        for _ in range(epochs):
            for rows in torch.randperm(len(self.train)).split(batch):
                if len(rows) > 1 or len(self.train) == 1:
                    yield self.train.take(rows)


def mixed(seed: int, number: int, client: int) -> int:
    """One seed of three numbers, so that seed 0 round 1 is not seed 1 round 0."""
    return (seed * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03 + client * 0x2545F4914F6CDD1D) % 2**63
