"""The driver: takes the optimiser steps between a method's updates, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.core.checkpoint import Checkpoint, method_state, restore_method, restore_rng, rng_state
from limbeck.core.method import Clock, MakeOptimizer, Method, Schedule, Update

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["NonFinite", "Record", "fit", "iterate"]

Optimizers = MakeOptimizer | torch.optim.Optimizer | Mapping[str, MakeOptimizer | torch.optim.Optimizer]
CHECK_EVERY = 16  # steps between looks at an accelerator's results: each look waits for the device


class NonFinite(RuntimeError):
    """A loss became NaN or infinite; the message says where and what to try."""


class Record(NamedTuple):
    """One step's scalars. They stay on the device until :meth:`floats` is called."""

    step: int
    steps: int
    logs: dict[str, Tensor]

    def floats(self) -> dict[str, float]:
        """The scalars as numbers; waits for the device."""
        return {name: float(scalar) for name, scalar in self.logs.items()}


def iterate(
    method: Method,
    data: Iterable[Any] | None,
    optimizer: Optimizers,
    *,
    steps: int,
    lr: Schedule | None = None,
    clip: float | None = None,
    accumulate: int = 1,
    precision: Literal["bf16"] | None = None,
    accelerator: Accelerator | None = None,
    checkpoint: Checkpoint | None = None,
) -> Iterator[Record]:
    """Train a method, one :class:`Record` a step. Lazy: nothing happens until it is consumed (see :func:`fit`).

    Args:
        method: what to train; its players may have several updates a step.
        data: batches; begun again when exhausted. ``None`` for methods that need none.
        optimizer: makes an optimiser from parameters (``partial(AdamW, lr=1e-3)``), or a built one, or one of either
            for each player. A factory goes through :meth:`Method.optimizers`.
        steps: optimiser steps of every player that is updated once a step.
        lr: multiplies every learning rate: ``Cosine()``.
        clip: the largest gradient norm of a player.
        accumulate: batches whose gradients are averaged into one step.
        precision: ``"bf16"`` runs the forward passes under bfloat16 autocast.
        accelerator: distributes over processes (DDP or FSDP2). The wrapped networks are the ones called.
        checkpoint: where to resume from and to write to.

    Raises:
        NonFinite: when a term is NaN or infinite, naming it.
    """
    if accelerator is not None:
        from limbeck.core.distributed import distribute

        data = distribute(method, data, accelerator)
    optimizers = _build(method, optimizer)
    rates = {name: [group["lr"] for group in o.param_groups] for name, o in optimizers.items()}
    trainable = {name: list(parameters) for name, parameters in method.players().items()}
    everything = [p for p in method.parameters() if p.requires_grad]
    device = everything[0].device if everything else torch.device("cpu")
    autocast = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    watch = _Watch(CHECK_EVERY if device.type != "cpu" else 1)
    method.train()
    done, source = 0, _Source(data)
    if checkpoint is not None and (found := checkpoint.load()) is not None:
        done, state = found
        restore_method(method, state["method"])
        for name, o in optimizers.items():
            o.load_state_dict(state["optimizers"][name])
        source.restore(state["data"])
        restore_rng(state["rng"])
    for step in range(done, steps):
        clock, logs = Clock(step, steps), dict[str, Tensor]()
        if lr is not None:
            for name, o in optimizers.items():
                for group, rate in zip(o.param_groups, rates[name], strict=True):
                    group["lr"] = rate * lr(clock)
        for part in range(accumulate):
            last = part == accumulate - 1
            with autocast:
                updates = method.updates(_to(source.next(), device), clock)
                update = next(updates, None)
            while update is not None:
                player = update.player
                _backward(update, trainable[player], everything, optimizers[player], accumulate)
                logs |= _named(update)
                watch.see(step, update)
                if last:
                    if clip is not None:
                        logs[f"{player}/gradient_norm"] = nn.utils.clip_grad_norm_(trainable[player], clip).detach()
                    optimizers[player].step()
                    optimizers[player].zero_grad(set_to_none=True)
                try:
                    with autocast:
                        update = updates.send(last)
                except StopIteration:
                    update = None
        yield Record(step, steps, logs)  # first: whoever logs it is never behind the checkpoint
        if checkpoint is not None and checkpoint.due(step + 1, steps):
            watch.look()
            checkpoint.save(step + 1, _state(method, optimizers, source))
    watch.look()


def fit(
    method: Method,
    data: Iterable[Any] | None,
    optimizer: Optimizers,
    *,
    steps: int,
    every: int = 0,
    report: Callable[[Record], None] | None = None,
    lr: Schedule | None = None,
    clip: float | None = None,
    accumulate: int = 1,
    precision: Literal["bf16"] | None = None,
    accelerator: Accelerator | None = None,
    checkpoint: Checkpoint | None = None,
) -> Record | None:
    """Train a method to the end: :func:`iterate`, consumed. Returns the last record.

    Args:
        every: steps between two calls of ``report``; the last step is always reported. 0 for the last alone.
        report: what to do with a record.

    The other arguments are those of :func:`iterate`.
    """
    record: Record | None = None
    for record in iterate(
        method, data, optimizer, steps=steps, lr=lr, clip=clip, accumulate=accumulate, precision=precision,
        accelerator=accelerator, checkpoint=checkpoint,
    ):  # fmt: skip
        if report is not None and (record.step + 1 == steps or (every and (record.step + 1) % every == 0)):
            report(record)
    return record


def _build(method: Method, optimizer: Optimizers) -> dict[str, torch.optim.Optimizer]:
    players = method.players()
    if isinstance(optimizer, torch.optim.Optimizer):
        if len(players) != 1:
            raise ValueError(f"one built optimiser was given for the players {', '.join(players)}; give one for each")
        return {next(iter(players)): optimizer}
    if not isinstance(optimizer, Mapping):
        return method.optimizers(optimizer)
    if set(optimizer) != set(players):
        raise ValueError(f"optimisers were given for {sorted(optimizer)}; the players are {sorted(players)}")
    return {
        name: given if isinstance(given, torch.optim.Optimizer) else given(players[name])
        for name, given in optimizer.items()
    }


def _backward(
    update: Update,
    mine: list[nn.Parameter],
    everything: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    accumulate: int,
) -> None:
    """Differentiate one update so that only its player's gradients move.

    The others' are set aside and put back around a plain ``backward``: under FSDP2 ``backward(inputs=...)`` skips the
    hooks that reduce gradients and is silently wrong.
    """
    own = set(mine)
    others = [(p, p.grad) for p in everything if p not in own]
    for p, _ in others:
        p.grad = None
    collect: Callable[[str], None] | None = getattr(optimizer, "collect", None)
    if collect is None:
        (update.loss / accumulate).backward()
    else:
        for left, (name, term) in zip(range(len(update.terms) - 1, -1, -1), update.terms.items(), strict=True):
            (term / accumulate).backward(retain_graph=left > 0)
            collect(name)
    for p, held in others:
        p.grad = held


def _named(update: Update) -> dict[str, Tensor]:
    prefix = "" if update.player == "student" else f"{update.player}/"
    scalars = {"loss": update.loss, **update.terms, **update.logs}
    return {prefix + name: scalar.detach() for name, scalar in scalars.items()}


def _to(batch: Any, device: torch.device) -> Any:
    return batch.to(device) if hasattr(batch, "to") else batch


def _state(method: Method, optimizers: Mapping[str, torch.optim.Optimizer], source: _Source) -> dict[str, Any]:
    return {
        "method": method_state(method),
        "optimizers": {name: o.state_dict() for name, o in optimizers.items()},
        "data": source.state(),
        "rng": rng_state(),
    }


class _Source:
    """An endless stream of batches whose position can be kept: by the data itself, or by counting."""

    def __init__(self, data: Iterable[Any] | None) -> None:
        self.data, self.stream, self.taken = data, None, 0

    def next(self) -> Any:
        self.taken += 1
        if self.data is None:
            return None
        if self.stream is None:
            self.stream = iter(self.data)
        try:
            return next(self.stream)
        except StopIteration:
            self.stream = iter(self.data)
        try:
            return next(self.stream)
        except StopIteration:
            raise ValueError("the data is empty: no batch came out of it") from None

    def state(self) -> dict[str, Any]:
        keeps = getattr(self.data, "state_dict", None)
        return {"taken": self.taken, "position": keeps() if keeps is not None else None}

    def restore(self, state: Mapping[str, Any]) -> None:
        if state["position"] is not None:
            self.data.load_state_dict(state["position"])  # type: ignore[union-attr]
            self.taken = state["taken"]
        else:
            for _ in range(state["taken"]):
                self.next()


class _Watch:
    """Looks for NaN and infinity without waiting for the device at every step."""

    def __init__(self, every: int) -> None:
        self.every, self.pending = every, list[tuple[int, Update]]()

    def see(self, step: int, update: Update) -> None:
        detached = {name: term.detach() for name, term in update.terms.items()}
        self.pending.append((step, Update(detached, update.player)))
        if len(self.pending) >= self.every:
            self.look()

    def look(self) -> None:
        pending, self.pending = self.pending, []
        if not pending or bool(torch.isfinite(torch.stack([u.loss.float() for _, u in pending])).all()):
            return
        for step, update in pending:
            values = {name: float(term) for name, term in update.terms.items()}
            bad = [name for name, number in values.items() if not -float("inf") < number < float("inf")]
            if bad:
                said = ", ".join(f"{name} = {number:.4g}" for name, number in values.items())
                raise NonFinite(
                    f"step {step}, player {update.player}: term {bad[0]!r} is not finite ({said}). Try a smaller "
                    "learning rate or clip=1.0; if it happens at the first step, look for bad inputs or log(0)."
                )
