"""Does a training step do what it should, and only that? Tried on copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.fit import fit
from limbeck.core.method import MakeOptimizer, Method
from limbeck.run.checks.bench import CLOCKS, Bench, gradients, same_draws, teachers_of, updates
from limbeck.run.checks.equality import disturbed
from limbeck.run.checks.said import Said, failed, ok, skipped, warning
from limbeck.run.training import make_optimizer

RATES = {"adamw": 1e-3, "sgd": 1e-2}  # small, whatever the run's: a few steps on one batch are no schedule
FALL_STEPS = 8


def where_trained(check: Callable[[Any], Said]) -> Callable[[Any], Said]:
    """A check of a training step, where there is one."""

    def look(bench: Bench) -> Said:
        return skipped("the method trains nothing") if bench.card.loop == "training_free" else check(bench)

    return look


def finite(bench: Bench) -> Said:
    """Every term of every update is finite, early, midway and late in the run."""
    (method, batch), seen = bench.fit(), dict[str, float]()
    method.train()
    for clock in CLOCKS:
        for update in updates(method, batch, clock):
            for name, term in update.terms.items():
                seen[name] = float(term.detach())
                if not isfinite(seen[name]):
                    measured = f"{name} = {seen[name]:.4g} at step {clock.step} of {clock.steps}"
                    return failed(measured, "Look for log(0), a division by zero or an overflow in that term.")
    return ok(", ".join(f"{name} = {number:.4g}" for name, number in seen.items()))


def gradient(bench: Bench) -> Said:
    """The loss reaches every trainable parameter of the student."""
    method, batch = bench.fit()
    student = student_of(method.train())
    named = [(name, p) for name, p in student.named_parameters() if p.requires_grad]
    if not named:
        return failed("the student has no trainable parameter", "Unfreeze it: student.requires_grad_(True).")
    norms = _norms(method, batch, named)
    if max(norms.values()) <= 0:  # it may begin where that is zero: as a copy of its teacher and of its critic
        with disturbed([p for p in method.parameters() if p.requires_grad]):
            norms = _norms(method, batch, named)
    if max(norms.values()) <= 0:
        return failed("no gradient reaches the student", "Look for .detach(), no_grad or a weight of zero in the loss.")
    missed = [name for name, norm in norms.items() if norm < 0]
    if missed:
        shown = ", ".join(missed[:4]) + (", ..." if len(missed) > 4 else "")
        measured = f"{len(missed)} of {len(norms)} trainable tensors of the student get no gradient: {shown}"
        return warning(measured, "Unused layers cost memory and are not learnt; remove or freeze them.")
    return ok(f"all {len(norms)} trainable tensors of the student; largest norm {max(norms.values()):.3g}")


def _norms(method: Method, batch: Any, named: Sequence[tuple[str, nn.Parameter]]) -> dict[str, float]:
    """The largest gradient of every parameter over a run; -1 where it takes no part."""
    norms = dict.fromkeys((name for name, _ in named), -1.0)
    for clock in CLOCKS:
        for update in updates(method, batch, clock):
            for (name, _), grad in zip(named, gradients(update.loss, [p for _, p in named]), strict=True):
                if grad is not None:
                    norms[name] = max(norms[name], float(grad.norm()))
    return norms


def teacher_frozen(bench: Bench) -> Said:
    """Through ``method.train()`` and two optimiser steps, a frozen teacher stays in eval mode, as it is."""
    if bench.card.teacher not in ("frozen", "ensemble", "black_box") or not bench.task.teachers:
        return skipped("no frozen teacher takes part")
    given = bench.teachers()
    method, batch = bench.fit(given)
    networks = list(dict.fromkeys([*given, *teachers_of(method)]))
    before = [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]
    moved_by = list[str]()
    held = {module for teacher in teachers_of(method) for module in teacher.modules()}
    method.train()
    awake = [type(module).__name__ for module in held if module.training]
    if awake:
        measured = f"{len(awake)} modules of the teacher are in training mode after method.train(): {awake[0]}, ..."
        return failed(measured, "Call limbeck.freeze(self.teacher) in __post_init__.")
    for network in networks:
        for name, p in network.named_parameters():
            if p.requires_grad:
                p.register_hook(partial(_note, moved_by, name))
    fit(method, [batch], _optimizer(bench), steps=2)
    changed = [
        k for n, kept in zip(networks, before, strict=True) for k, v in n.state_dict().items() if not same(v, kept[k])
    ]
    if changed:
        measured = f"{changed[0]} and {len(changed) - 1} other tensors of the teacher change in two steps"
        return failed(measured, "Call limbeck.freeze(self.teacher) and leave it out of players().")
    if moved_by:
        measured = f"{moved_by[0]} of the teacher gets gradients"
        return failed(measured, "Call limbeck.freeze(self.teacher); its inputs still get gradients.")
    return ok("in eval mode, without gradients, and unchanged by two optimiser steps")


def loss_falls(bench: Bench) -> Said:
    """Eight steps on one batch, with the same draws in each, lower the loss on it; small ones where it begins low."""
    if bench.card.loop == "alternating":
        return skipped("players that play against each other need not lower their losses")
    measured = ""
    for scale in (1.0, 0.1):
        method, batch = bench.fit()
        before = _loss(method, batch)
        with same_draws():
            fit(method, _alike(batch), _optimizer(bench, scale), steps=FALL_STEPS)
        after = _loss(method, batch)
        measured = f"{before:.4g} to {after:.4g} in {FALL_STEPS} steps of {bench.task.spec.optimizer} on one batch"
        if after < before:
            return ok(measured)
    return warning(measured, "Check the sign of every term, and that the student is what the optimiser gets.")


def _alike(batch: Any) -> Iterator[Any]:
    """A batch for every step, which draws what the one before drew."""
    while True:
        torch.manual_seed(0)
        yield batch


def _optimizer(bench: Bench, scale: float = 1.0) -> MakeOptimizer:
    """The run's, at a small learning rate."""
    spec = bench.task.spec
    return make_optimizer(spec.model_copy(update={"lr": scale * RATES[spec.optimizer]}))


def _loss(method: Method, batch: Any) -> float:
    """Midway through a run, so that schedules stand still, with the same draws every time."""
    method.train()
    with same_draws():
        return sum(float(update.loss.detach()) for update in updates(method, batch, CLOCKS[1]))


def student_of(method: Method) -> nn.Module:
    """The network that a method trains."""
    student = method.student
    assert isinstance(student, nn.Module)
    return student


def _note(seen: list[str], name: str, gradient: Tensor) -> None:
    seen.append(name)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal, shape and all."""
    return a.shape == b.shape and torch.equal(a, b)
