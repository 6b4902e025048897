"""The driver: takes the optimiser steps between a method's updates, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.core.checkpoint import Checkpoint
from limbeck.core.method import Clock, MakeOptimizer, Method, Schedule, Update
from limbeck.core.modules import in_step
from limbeck.core.source import Source, mapped
from limbeck.core.state import restore_state, state_of
from limbeck.core.watch import NonFinite, Watch
from limbeck.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from limbeck.core.distributed import Team

__all__ = ["NonFinite", "Record", "fit", "iterate"]

Optimizers = MakeOptimizer | torch.optim.Optimizer | Mapping[str, MakeOptimizer | torch.optim.Optimizer]
LOOK_EVERY = 16  # updates between looks at an accelerator's results: each look waits for the device


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
        steps: optimiser steps of every player that is updated once a step; at least 0.
        lr: multiplies every learning rate: ``Cosine()``. Built optimisers get their own rates back at the end.
        clip: the largest gradient norm of a player; above 0.
        accumulate: batches whose gradients are averaged into one step; at least 1.
        precision: ``"bf16"`` runs the forward passes under bfloat16 autocast.
        accelerator: spreads the rows of every batch over its processes (:mod:`limbeck.core.distributed`).
        checkpoint: where to resume from and to write to.

    Raises:
        NonFinite: when a term, or a gradient's norm under ``clip``, is NaN or infinite, naming it.
        InputError: for a value out of range, empty data, or a checkpoint of another method or a longer run.
    """
    _check(steps, clip, accumulate, precision)
    team = None
    if accelerator is not None:
        from limbeck.core.distributed import Team, distribute

        data = distribute(method, data, accelerator)
        team = Team(method, accelerator) if accelerator.num_processes > 1 else None
    everything = [p for p in method.parameters() if p.requires_grad]
    for p in everything:
        p.grad = None  # what a caller's own backward left behind is no part of the first step
    optimizers = _build(method, optimizer)
    players = {n: _Player(n, list(own), everything, optimizers[n]) for n, own in method.players().items()}
    if clip is not None and any(player.collect is not None for player in players.values()):
        raise InputError("clip", clip, "is not defined for an optimiser that takes each term apart; leave it out")
    device = everything[0].device if everything else torch.device("cpu")
    autocast = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    watch, source, done = Watch(1 if device.type == "cpu" else LOOK_EVERY), Source(data, checkpoint is not None), 0
    method.train()
    if checkpoint is not None and (found := checkpoint.load()) is not None:
        done, state = found
        if done > steps:
            raise InputError("steps", steps, f"is less than the {done} that the checkpoint has done; use a new folder")
        restore_state(state, method, optimizers, source, team)
    try:
        for step in range(done, steps):
            clock, logs = Clock(step, steps), {}
            if lr is not None:
                for player in players.values():
                    player.scale_rates(lr(clock))
            for part in range(1, accumulate + 1):
                last, batch = part == accumulate, _to(source.next(), device)
                with autocast, _step_of(team):
                    updates = method.updates(batch, clock)
                    update = next(updates, None)
                while update is not None:
                    if update.player not in players:
                        raise ValueError(f"no player is called {update.player!r}; there are {', '.join(players)}")
                    player = players[update.player]
                    if update.terms:
                        scalars = player.backward(update, accumulate, last, team)
                        watch.see(step, player.name, scalars, scalars["loss"])
                        if last and clip is not None:
                            scalars["gradient_norm"] = norm = player.clip(clip)
                            watch.see(step, player.name, scalars, norm)
                        if last:
                            player.optimizer.step()
                            for p in player.own:  # ``zero_grad`` tells a profiler, which costs as much as all else here
                                p.grad = None
                    else:
                        scalars = {name: scalar.detach() for name, scalar in update.logs.items()}
                    logs |= {player.prefix + n: s for n, s in scalars.items()} if player.prefix else scalars
                    try:
                        with autocast, _step_of(team):
                            update = updates.send(last)
                    except StopIteration:
                        update = None
            if team is not None:
                team.share_statistics()
            yield Record(step, steps, logs)  # before the checkpoint: whoever logs it is never behind what is on disk
            if checkpoint is not None and checkpoint.due(step + 1, steps, team.agree if team is not None else None):
                watch.look()
                state = state_of(method, optimizers, source, team, step)
                checkpoint.save(step + 1, state, write=team is None or team.main)
        watch.look()
    finally:
        if lr is not None:
            for player in players.values():
                player.scale_rates(1.0)
    if team is not None:
        team.rejoin()


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


class _Player:
    """One player's parameters and optimiser, and the parameters that must not move with them."""

    def __init__(
        self, name: str, own: list[nn.Parameter], everything: list[nn.Parameter], optimizer: torch.optim.Optimizer
    ) -> None:
        mine = set(own)
        self.name, self.own, self.others = name, own, [p for p in everything if p not in mine]
        self.prefix = "" if name == "student" else f"{name}/"
        self.optimizer, self.rates = optimizer, [group["lr"] for group in optimizer.param_groups]
        self.collect: Callable[[str], None] | None = getattr(optimizer, "collect", None)

    def scale_rates(self, factor: float) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def backward(self, update: Update, parts: int, last: bool, team: Team | None) -> dict[str, Tensor]:
        """Differentiate one update so that only this player's gradients move; the update's detached scalars.

        The others' gradients are set aside and put back around a plain ``backward``: under FSDP2
        ``backward(inputs=...)`` skips the hooks that reduce gradients and is silently wrong.
        """
        held = [p.grad for p in self.others]
        for p in self.others:
            p.grad = None
        loss = update.loss
        if self.collect is None:
            (loss if parts == 1 else loss / parts).backward()
            if team is not None and last:
                team.average(self.own)
        else:
            for left, (name, term) in zip(range(len(update.terms) - 1, -1, -1), update.terms.items(), strict=True):
                (term / parts).backward(retain_graph=left > 0)
                if team is not None:
                    team.average(self.own)
                self.collect(name)
        for p, grad in zip(self.others, held, strict=True):
            p.grad = grad
        scalars = {name: scalar.detach() for some in (update.terms, update.logs) for name, scalar in some.items()}
        scalars["loss"] = loss.detach()
        return scalars if team is None else team.mean(scalars)

    def clip(self, largest: float) -> Tensor:
        """Shorten this player's gradient to ``largest``; its norm before."""
        norm = nn.utils.clip_grad_norm_(self.own, largest).detach()
        return getattr(norm, "full_tensor", lambda: norm)()


def _build(method: Method, optimizer: Optimizers) -> dict[str, torch.optim.Optimizer]:
    players = method.players()
    if isinstance(optimizer, torch.optim.Optimizer):
        if len(players) != 1:
            raise ValueError(f"one built optimiser was given for the players {', '.join(players)}; give one for each")
        optimizer = {next(iter(players)): optimizer}
    if not isinstance(optimizer, Mapping):
        return method.optimizers(optimizer)
    if set(optimizer) != set(players):
        raise ValueError(f"optimisers were given for {sorted(optimizer)}; the players are {sorted(players)}")
    made: dict[str, torch.optim.Optimizer] = {}
    for name, given in optimizer.items():
        made[name] = given if isinstance(given, torch.optim.Optimizer) else given(players[name])
        if not {p for group in made[name].param_groups for p in group["params"]} <= set(players[name]):
            raise ValueError(f"the optimiser of {name!r} moves parameters that are not its own (or that were sharded)")
    return made


def _step_of(team: Team | None) -> AbstractContextManager[None]:
    return nullcontext() if team is None else in_step(True)


def _to(batch: Any, device: torch.device) -> Any:
    if device.type == "cpu":
        return batch
    if hasattr(batch, "to"):
        return batch.to(device)
    return mapped(batch, lambda part: part.to(device) if hasattr(part, "to") else part)


def _check(steps: int, clip: float | None, accumulate: int, precision: str | None) -> None:
    if steps < 0:
        raise InputError("steps", steps, "must be at least 0")
    if clip is not None and not clip > 0:
        raise InputError("clip", clip, "must be greater than 0; leave it out for none")
    if accumulate < 1:
        raise InputError("accumulate", accumulate, "must be at least 1")
    if precision not in (None, "bf16"):
        raise InputError("precision", precision, "is not one of None, 'bf16'")
