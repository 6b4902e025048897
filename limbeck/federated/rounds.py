"""Rounds: who takes part, and the questions to them. What a client does wrong costs its share of a round, no more."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from limbeck.errors import InputError
from limbeck.federated.client import mixed
from limbeck.federated.payload import Payload, Shapes, fault, from_record, size, to_record

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp import Grid

__all__ = ["Answers", "Clients", "Reply", "Round", "Rounds", "expected"]

LOG = logging.getLogger("limbeck.federated")


class Round(NamedTuple):
    """The batch of a federated method: ``number`` counts from 0, ``clients`` take part, in ascending order."""

    number: int
    clients: tuple[int, ...]


def expected(population: int, participation: float) -> int:
    """How many clients a share of them is; at least one."""
    return max(1, round(participation * population))


class Rounds:
    """Rounds without end; who takes part is a function of seed and round, so that the position is one integer.

    Args:
        population: how many clients there are.
        participation: the share that takes part in a round; at least one does.
        coins: each client takes part by a coin of its own, as privacy accounting assumes: as many on average, perhaps
            nobody.
    """

    def __init__(self, population: int, participation: float, seed: int = 0, *, coins: bool = False) -> None:
        self.population, self.seed, self.taken, self.coins = population, seed, 0, coins
        self.each = expected(population, participation)

    def __iter__(self) -> Iterator[Round]:
        while True:
            drawn = torch.Generator().manual_seed(mixed(self.seed, self.taken, self.population))
            if self.coins:
                chosen = (torch.rand(self.population, generator=drawn) < self.each / self.population).nonzero()[:, 0]
            else:
                chosen = torch.randperm(self.population, generator=drawn)[: self.each]
            number, self.taken = self.taken, self.taken + 1  # before the yield: a checkpoint counts this round
            yield Round(number, tuple(sorted(chosen.tolist())))

    def state_dict(self) -> dict[str, int]:
        """Where it is."""
        return {"seed": self.seed, "population": self.population, "taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there.

        Raises:
            InputError: when the position is one of another population or seed.
        """
        for name, mine in (("seed", self.seed), ("population", self.population)):
            if state[name] != mine:
                raise InputError(f"checkpoint {name}", state[name], f"is not this run's ({mine}); start a new run")
        self.taken = state["taken"]


class Reply(NamedTuple):
    """What a client sent back, and how many rows it trains on."""

    client: int
    payload: Payload
    samples: int


class Answers(NamedTuple):
    """The replies that can be used, in the order of clients, and what the round cost, as scalars to log."""

    replies: list[Reply]
    logs: dict[str, Tensor]


class Clients:
    """Whom a server asks, over any of Flower's grids.

    Args:
        grid: in this process, of a simulation, or of a SuperLink.
        population: how many clients are waited for, once.
        seed: with round and client it decides everything random at a client.
        timeout: seconds until a client is late; ``None`` to wait for all.
    """

    def __init__(self, grid: Grid, population: int, *, seed: int = 0, timeout: float | None = None) -> None:
        self.grid, self.population, self.seed, self.timeout = grid, population, seed, timeout
        self.nodes = dict[int, int]()  # client to node, of those that are there

    def meet(self, patience: float = 60.0) -> None:
        """Wait until all clients are there, and learn which node is which. The first question does it too.

        Raises:
            InputError: when too few of them come.
        """
        last = time.monotonic() + patience
        while len(nodes := list(self.grid.get_node_ids())) < self.population:
            if time.monotonic() > last:
                raise InputError("population", self.population, f"clients were expected; {len(nodes)} are there")
            time.sleep(0.2)
        self._greet(nodes)

    def _greet(self, nodes: Iterable[int]) -> None:
        """Ask nodes that were not there before who they are, and forget those that left."""
        from flwr.app import RecordDict

        here = set(nodes)
        self.nodes = {k: node for k, node in self.nodes.items() if node in here}
        new = sorted(here - set(self.nodes.values()))
        asked = [self.grid.create_message(RecordDict(), "query", node, "0") for node in new]
        for reply in self.grid.send_and_receive(asked, timeout=self.timeout) if asked else ():
            if not reply.has_error():
                number = int(reply.content.metric_records["about"]["client"])  # type: ignore[arg-type]
                self.nodes[number] = reply.metadata.src_node_id

    def ask(
        self, payloads: Mapping[int, Payload], number: int, *, task: Literal["train", "evaluate"] = "train",
        like: Shapes | Callable[[int], Shapes] | None = None,
    ) -> Answers:  # fmt: skip
        """Send every client its payload and collect what can be used of what comes back.

        A client that is dead or late, answers something that is not finite or not of the shapes ``like``, is left out
        of this round with one line in the log ``limbeck.federated``.

        Args:
            payloads: by client.
            number: the round's.
            like: names and shapes of a reply, or of each client's; -1 for any number of rows.
        """
        from flwr.app import ConfigRecord, RecordDict

        if not self.nodes:
            self.meet()
        else:
            self._greet(self.grid.get_node_ids())
        about = ConfigRecord({"number": number, "seed": self.seed})
        asked = [
            self.grid.create_message(
                RecordDict({"payload": to_record(payload), "round": about}), task, self.nodes[k], str(number)
            )
            for k, payload in payloads.items()
            if k in self.nodes
        ]
        whose = {node: k for k, node in self.nodes.items()}
        came = self.grid.send_and_receive(asked, timeout=self.timeout) if asked else ()
        got = {whose[r.metadata.src_node_id]: r for r in came}
        replies = list[Reply]()
        for k in sorted(payloads):
            wanted = like(k) if callable(like) else like
            reply, wrong = _read(k, got.get(k), wanted) if k in self.nodes else (None, "it is not connected")
            if reply is None:
                LOG.warning("round %d, client %d is left out: %s", number, k, wrong)
            else:
                replies.append(reply)
        return Answers(replies, {
            "clients": torch.tensor(float(len(replies))),
            "bytes_down": torch.tensor(float(sum(map(size, payloads.values())))),
            "bytes_up": torch.tensor(float(sum(size(reply.payload) for reply in replies))),
        })  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """The personal states, where the clients live in this process; elsewhere they stay with the clients."""
        return self.grid.state_dict() if hasattr(self.grid, "state_dict") else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put them back."""
        if hasattr(self.grid, "load_state_dict"):
            self.grid.load_state_dict(state)


def _read(client: int, message: Message | None, like: Shapes | None) -> tuple[Reply | None, str]:
    if message is None:
        return None, "no answer in time"
    if message.has_error():
        return None, f"error {message.error.code}: {' '.join(str(message.error.reason).split())[-200:]}"
    try:
        payload = from_record(message.content.array_records["payload"])
        samples = int(message.content.metric_records["about"]["samples"])  # type: ignore[arg-type]
    except (KeyError, ValueError, TypeError) as error:
        return None, f"a malformed message ({type(error).__name__}: {error})"
    wrong = fault(payload, like)
    return (None, wrong) if wrong is not None else (Reply(client, payload, samples), "")
