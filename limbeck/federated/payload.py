"""What travels: named tensors, and nothing else. To Flower's records and back without pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from limbeck.errors import InputError, nearest

if TYPE_CHECKING:
    from flwr.app import ArrayRecord

__all__ = ["Payload", "Shapes", "fault", "from_record", "part", "put", "shapes", "size", "take", "to_record"]

Payload = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]  # -1 stands for any number of rows


@torch.no_grad()
def take(module: nn.Module, name: str, keep: Callable[[str], bool] = lambda _: True) -> Payload:
    """A module's parameters and buffers as ``name/path``, copied to the CPU.

    Args:
        name: what the module is called in the payload.
        keep: which paths travel: how a method says what is shared and what is personal.
    """
    return {f"{name}/{k}": v.detach().cpu().clone() for k, v in module.state_dict().items() if keep(k)}


@torch.no_grad()
def put(module: nn.Module, payload: Payload, name: str) -> None:
    """Copy what ``payload`` has of ``name`` into a module; whatever it has not stays as it is.

    Raises:
        InputError: when it has nothing of that name, something that the module has not, or another shape.
    """
    mine, theirs = module.state_dict(keep_vars=True), part(payload, name)
    if not theirs:
        raise InputError("payload", name, "is not in it" + nearest(name, {k.split("/")[0] for k in payload}))
    for path, value in theirs.items():
        if path not in mine:
            raise InputError("payload", f"{name}/{path}", "is no part of the module" + nearest(path, mine))
        if mine[path].shape != value.shape:
            raise InputError(f"{name}/{path}", list(value.shape), f"is not the module's shape {list(mine[path].shape)}")
        mine[path].copy_(value)


def part(payload: Payload, name: str) -> Payload:
    """The entries ``name/path``, by path."""
    return {key.removeprefix(f"{name}/"): value for key, value in payload.items() if key.startswith(f"{name}/")}


def shapes(payload: Payload) -> dict[str, tuple[int, ...]]:
    """Names and shapes: what a reply is held against."""
    return {name: tuple(value.shape) for name, value in payload.items()}


def size(payload: Payload) -> int:
    """Bytes of all tensors, without names and headers."""
    return sum(value.numel() * value.element_size() for value in payload.values())


def fault(payload: Payload, like: Shapes | None) -> str | None:
    """What is wrong with a reply, as ``field: value``; ``None`` when it is finite and as wanted."""
    if like is not None:
        for name in like:
            if name not in payload:
                return f"{name}: missing"
        for name, value in payload.items():
            if name not in like:
                return f"{name}: not asked for"
            wanted = like[name]
            if len(wanted) != value.ndim or any(w not in (-1, n) for w, n in zip(wanted, value.shape, strict=True)):
                return f"{name}: shape {list(value.shape)} instead of {list(wanted)}"
    for name, value in payload.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            return f"{name}: {'NaN' if bool(value.isnan().any()) else 'infinity'}"
    return None


def to_record(payload: Payload) -> ArrayRecord:
    """Flower's record of it: NumPy's own format, which is never pickle."""
    from flwr.app import ArrayRecord

    return ArrayRecord({name: value.detach().cpu().contiguous() for name, value in payload.items()})


def from_record(record: ArrayRecord) -> Payload:
    """The tensors of a record."""
    return {name: torch.from_numpy(array.numpy()) for name, array in record.items()}
