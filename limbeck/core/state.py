"""Everything a run must remember to go on bit for bit: weights, optimisers, generators, the place in the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.core.checkpoint import restore_rng, rng_state
from limbeck.core.modules import is_frozen
from limbeck.core.source import Source
from limbeck.core.watch import check_weights
from limbeck.errors import InputError

if TYPE_CHECKING:
    from limbeck.core.distributed import Team

__all__ = ["method_state", "restore_method", "restore_state", "state_of"]

Optimizers = Mapping[str, torch.optim.Optimizer]


def state_of(method: nn.Module, optimizers: Optimizers, source: Source, team: Team | None, step: int) -> dict[str, Any]:
    """The state after a step, for a checkpoint. Every process of a team must ask for it.

    Raises:
        NonFinite: when a weight is not finite.
    """
    check_weights(method, step)
    return {
        "name": type(method).__name__,
        "method": method_state(method),
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        "data": source.state(),
        "rng": [rng_state()] if team is None else team.gather(rng_state()),
    }


def restore_state(
    state: Mapping[str, Any], method: nn.Module, optimizers: Optimizers, source: Source, team: Team | None
) -> None:
    """Put back what :func:`state_of` kept.

    Raises:
        InputError: when the state is another method's, another model's, or that of another number of processes.
    """
    rank, processes = (0, 1) if team is None else (team.rank, team.processes)
    if state["name"] != type(method).__name__:
        raise _foreign(f"of {state['name']}", f"is not this method's, {type(method).__name__}")
    if len(state["rng"]) != processes:
        raise InputError("processes", processes, f"resume what {len(state['rng'])} began; use as many or a new folder")
    restore_method(method, state["method"])
    if set(state["optimizers"]) != set(optimizers):
        raise _foreign(f"with players {', '.join(state['optimizers'])}", f"does not fit {', '.join(optimizers)}")
    for name, optimizer in optimizers.items():
        try:
            optimizer.load_state_dict(_place_moments(optimizer, state["optimizers"][name]))
        except (ValueError, KeyError) as error:
            raise _foreign(f"optimiser of {name}", f"does not fit ({error})") from None
    source.restore(state["data"])
    restore_rng(state["rng"][rank])


def method_state(method: nn.Module) -> dict[str, Any]:
    """A method's state without its frozen networks: those are given anew to a resumed run."""
    frozen = _frozen(method)
    return {k: v for k, v in method.state_dict().items() if not k.startswith(frozen)}


def restore_method(method: nn.Module, state: Mapping[str, Any]) -> None:
    """Load what :func:`method_state` kept.

    Raises:
        InputError: when the state is another method's.
    """
    now, frozen = method.state_dict(), _frozen(method)
    wrong = set(state) ^ {k for k in now if not k.startswith(frozen)}
    wrong |= {k for k, v in state.items() if isinstance(v, Tensor) and k in now and v.shape != now[k].shape}
    if wrong:
        raise _foreign(min(wrong), "is missing, unknown or of another shape")
    try:
        method.load_state_dict({k: _placed(v, now[k]) for k, v in state.items()}, strict=False)
    except (RuntimeError, KeyError) as error:
        raise _foreign(type(method).__name__, f"does not fit ({error})") from None


def _frozen(module: nn.Module) -> tuple[str, ...]:
    # under every name it has: a guided teacher is also a part of what guides it
    named = module.named_modules(remove_duplicate=False)
    return tuple(f"{name}." for name, m in named if name and is_frozen(m))


def _placed(value: Any, like: Any) -> Any:
    """``value``, spread over the processes as ``like`` is."""
    if not hasattr(like, "device_mesh") or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def _place_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(hasattr(p, "device_mesh") for p in parameters):
        return state
    moments = {i: {n: _placed(v, parameters[i]) for n, v in held.items()} for i, held in state["state"].items()}
    return {**state, "state": moments}


def _foreign(what: str, why: str) -> InputError:
    return InputError("checkpoint", what, f"{why}; use another folder")
