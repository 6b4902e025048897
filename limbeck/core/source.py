"""Batches without end, whose position survives a resume."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch

from limbeck.core.checkpoint import restore_rng, rng_state
from limbeck.errors import InputError

__all__ = ["Source", "mapped"]

PLAIN = (str, bytes, int, float, type(None))


def mapped(batch: Any, change: Callable[[Any], Any]) -> Any:
    """The same batch with every leaf changed: what is in tuples, named tuples, lists, mappings and dataclasses.

    A list of plain values, such as texts, is one leaf.
    """
    if isinstance(batch, tuple) or (isinstance(batch, list) and not all(isinstance(part, PLAIN) for part in batch)):
        parts = [mapped(part, change) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    if isinstance(batch, Mapping):
        return {name: mapped(part, change) for name, part in batch.items()}
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(batch, **{f.name: mapped(getattr(batch, f.name), change) for f in fields(batch) if f.init})
    return change(batch)


class Source:
    """Begins its data again when they are exhausted, and knows where it is: from the data itself, or by counting.

    Data with ``state_dict`` and ``load_state_dict`` (``Batches``, torchdata's ``StatefulDataLoader``) go on from where
    they were. Others are read again up to there; what they draw from the global generators at the start of an epoch is
    drawn as it was.

    Args:
        data: batches, or ``None``.
        kept: whether :meth:`state` will be asked for.
    """

    def __init__(self, data: Iterable[Any] | None, kept: bool) -> None:
        self.data, self.kept = data, kept
        self.stream: Iterator[Any] | None = None
        self.before, self.taken = 0, 0  # batches of finished epochs, of this one
        self.began: dict[str, Any] | None = None  # the generators when this epoch began, for data that only count
        self.keeps = hasattr(data, "state_dict") and hasattr(data, "load_state_dict")
        self.generator: torch.Generator | None = getattr(data, "generator", None)

    def next(self) -> Any:
        """The next batch; ``None`` where there are no data.

        Raises:
            InputError: when the data are empty.
        """
        if self.data is None:
            return None
        for stream in (self.stream, None):  # an exhausted epoch is followed by one more, not by a search without end
            try:
                batch = next(stream if stream is not None else self._begin())
            except StopIteration:
                continue
            self.taken += 1
            return batch
        raise InputError("data", type(self.data).__name__, "is empty: no batch came out of it")

    def _begin(self) -> Iterator[Any]:
        assert self.data is not None
        self.before, self.taken = self.before + self.taken, 0
        self.began = rng_state() if self.kept and not self.keeps else None
        self.stream = iter(self.data)
        return self.stream

    def state(self) -> dict[str, Any]:
        """The position, for a checkpoint. Data that know theirs are not counted as well: where an epoch ends, two
        counts can mean one place, and a resumed run must keep the very state of an undisturbed one."""
        counted = {"before": self.before, "taken": self.taken, "began": self.began}
        position = self.data.state_dict() if self.keeps else counted  # type: ignore[union-attr]
        return {"position": position, "generator": None if self.generator is None else self.generator.get_state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on after the last batch that was taken. Moves the global generators: restore them afterwards."""
        if self.keeps:
            self.data.load_state_dict(state["position"])  # type: ignore[union-attr]
            self._begin()  # now, because what a loader draws when it begins was drawn before the checkpoint
        else:
            self._read_again(state["position"])
        if self.generator is not None and state["generator"] is not None:
            self.generator.set_state(state["generator"])  # a loader draws from it beside its sampler

    def _read_again(self, state: Mapping[str, Any]) -> None:
        while self.before + self.taken < state["before"]:
            self.next()
        if self.stream is not None:
            next(self.stream, None)  # an epoch ends by running out: data may count their epochs there
        if state["began"] is not None:
            restore_rng(state["began"])
            self._begin()
            self.began = state["began"]
            for _ in range(state["taken"]):
                self.next()
