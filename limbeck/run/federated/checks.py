"""The checks of a run in rounds, in their order."""

from collections.abc import Callable
from typing import Any

import torch

from limbeck.errors import InputError
from limbeck.federated.privacy import Privacy
from limbeck.run.checks.bench import CLOCKS, updates
from limbeck.run.checks.capabilities import capabilities
from limbeck.run.checks.said import Said, failed, ok, skipped, warning
from limbeck.run.vision.bench import WholeBench
from limbeck.run.vision.checks import data

__all__ = ["CHECKS"]

FEW = 2  # rows of a client with which batch norm, or anything else, learns little


def shares(bench: WholeBench) -> Said:
    """Every client has images; how many, and of how many classes."""
    held = bench.task.shares()
    sizes, kinds = sorted(map(sum, held)), sorted(sum(n > 0 for n in own) for own in held)
    measured = f"{len(held)} clients with {sizes[0]} to {sizes[-1]} images of {kinds[0]} to {kinds[-1]} classes"
    if sizes[0] <= FEW:
        return warning(measured, "Clients with a few images say little: fewer clients, or a larger dirichlet number.")
    return ok(measured)


def privacy(bench: WholeBench) -> Said:
    """What the run spends of a client's privacy."""
    method: Any = bench.fit().method
    private = Privacy.of(method) if hasattr(method, "privacy") else None
    if private is None:
        return skipped("no privacy was asked for: what travels can tell what is in the data")
    steps = bench.task.spec.steps or 0
    if not private.noise:
        return warning("updates are clipped, without noise", "Nothing is private: give method.noise_multiplier.")
    try:
        spent = private.epsilon(steps)
    except InputError:
        return warning("no accountant was run", "pip install 'limbeck[privacy]' to know epsilon.")
    whose = "a client's rows, from the server" if private.where == "local" else "whether a client took part"
    said = f"hides {whose}, with epsilon {spent:.3g} at delta {private.delta:g} after {steps} rounds"
    if private.delta * private.population >= 1:
        return warning(said, "This delta lets a client's data out: take one far below 1 / population.")
    return ok(said)


def first_round(bench: WholeBench) -> Said:
    """One round, with every message sent: clients answer, and the shared model stays finite."""
    method, batch = bench.fit()
    if not batch.clients:
        return ok("no client was drawn for it")
    logs: dict[str, float] = {}
    for update in updates(method, batch, CLOCKS[0]):
        logs |= {name: float(number) for name, number in {**update.terms, **update.logs}.items()}
    student = method.student
    assert isinstance(student, torch.nn.Module)
    if not logs.get("clients"):
        return failed("no client gave an answer that could be used", "The log above says why each was dropped.")
    if not all(torch.isfinite(p).all() for p in student.parameters()):
        return failed("the shared model is not finite after one round", "Lower the clients' method.lr.")
    sent = f"{logs.get('bytes_down', 0) / 1e3:,.1f} kB down, {logs.get('bytes_up', 0) / 1e3:,.1f} kB up"
    return ok(f"{logs['clients']:.0f} clients answered, {sent}")


CHECKS: dict[str, Callable[[Any], Said]] = {
    "teacher's capabilities": capabilities,
    "classes": data.classes,
    "class balance": data.balance,
    "train and test": data.overlap,
    "labels of duplicates": data.conflicts,
    "pixels": data.pixels,
    "clients' shares": shares,
    "privacy": privacy,
    "first round": first_round,
}
