"""Rows of several domains, drawn with probabilities that may change while a run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from limbeck.data.tokens import Tokens, TokenSet
from limbeck.errors import InputError

__all__ = ["Mixture", "hold_out"]


class Mixture:
    """Batches without end: the domain of every row is drawn with ``weights``, the row is the next of its domain.

    A domain is read in a shuffled order, and in another one when it is exhausted. Everything is a pure function of
    the seed, the weights and how many batches were taken, so that all processes see the same batches.

    Args:
        data: rows with domains.
        batch: rows a batch.
        seed: of the draws and of the orders.

    Attributes:
        names: the domains, in the order in which they first come.
        weights: a probability for each; at first its share of the rows. Set it at any time.

    Raises:
        InputError: for rows of fewer than two domains.
    """

    def __init__(self, data: TokenSet, batch: int = 16, *, seed: int = 0) -> None:
        self.names = tuple(dict.fromkeys(data.domains))
        if len(self.names) < 2:
            raise InputError(
                "domain", len(self.names), 'domains are in the data; give a .jsonl file whose lines have a "domain"'
            )
        self.dataset, self.batch, self.seed = data, batch, seed
        self.rows = [[k for k, domain in enumerate(data.domains) if domain == name] for name in self.names]
        self.weights: Sequence[float] = [len(rows) / len(data) for rows in self.rows]
        self._taken, self._read = 0, [0] * len(self.names)  # batches; rows of each domain
        self._orders = dict[int, tuple[int, list[int]]]()  # of each domain: how often it was read, its order now

    def __iter__(self) -> Iterator[Tokens]:
        while True:
            chances = torch.tensor(self.weights, dtype=torch.float64)
            drawn = torch.multinomial(chances, self.batch, replacement=True, generator=self._generator(0, self._taken))
            index = torch.tensor([self._next(domain) for domain in drawn.tolist()])
            self._taken += 1  # before the yield: a checkpoint written by the consumer counts this batch
            yield self.dataset.take(index)

    def _next(self, domain: int) -> int:
        """The row that comes next."""
        rows = self.rows[domain]
        time, place = divmod(self._read[domain], len(rows))
        self._read[domain] += 1
        if domain not in self._orders or self._orders[domain][0] != time:
            mixed = torch.randperm(len(rows), generator=self._generator(domain + 1, time))
            self._orders[domain] = time, mixed.tolist()
        return rows[self._orders[domain][1][place]]

    def _generator(self, stream: int, number: int) -> torch.Generator:
        mixed = self.seed * 0x9E3779B97F4A7C15 + stream * 0xBF58476D1CE4E5B9 + number * 0xD1B54A32D192ED03
        return torch.Generator().manual_seed(mixed % 2**63)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, and its weights."""
        place = {"taken": self._taken, "read": list(self._read), "weights": [float(w) for w in self.weights]}
        return {"seed": self.seed, "rows": [len(rows) for rows in self.rows], **place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            InputError: when the position is one of other data or of another seed.
        """
        for name, mine in (("seed", self.seed), ("rows", [len(rows) for rows in self.rows])):
            if state[name] != mine:
                raise InputError(f"checkpoint data {name}", state[name], f"is not this run's ({mine}); start a new run")
        self._taken, self._read, self.weights = state["taken"], list(state["read"]), list(state["weights"])


def hold_out(data: TokenSet, share: float, *, most: int) -> tuple[TokenSet, list[TokenSet]]:
    """A share of every domain's rows, from 1 to ``most``, apart: the other rows, and these, a domain each.

    Raises:
        InputError: for fewer than two domains, and for one that is left without rows.
    """
    held = list[list[int]]()
    for name, rows in zip((whole := Mixture(data)).names, whole.rows, strict=True):
        count = min(max(1, round(share * len(rows))), most)
        if count == len(rows):
            raise InputError("held_out", share, f"leaves none of the {len(rows)} rows of domain {name!r}; make it less")
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
        held.append(sorted(rows[k] for k in order[:count]))
    apart = {k for rows in held for k in rows}
    return data.subset([k for k in range(len(data)) if k not in apart]), [data.subset(rows) for rows in held]
