"""Is there nothing to learn from a teacher that is the student?"""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from limbeck.core.method import Clock
from limbeck.run.checks.bench import CLOCKS, Bench, Fit, gradients, same_draws, updates
from limbeck.run.checks.said import Said, failed, ok, skipped, warning

DISTURBED = 0.1  # of their mean size is added to parameters as noise, to see how large a term is otherwise
ZERO = 0.02  # the size that a parameter of zeros is taken to have
VALUE, GRADIENT, FLOOR = 1e-3, 1e-2, 1e-6  # of that size, what is left at equality may have


class Size(NamedTuple):
    """How large a term is, and its gradient on the student."""

    value: float
    gradient: float


def zero_at_equality(bench: Bench) -> Said:
    """With a copy of the teacher as student, on the same pixels and in eval mode like it, the terms that the card says
    vanish are zero and have no gradient, and those it calls stationary have no gradient.

    Zero is measured against the same terms once the student's parameters are disturbed: a temperature, a shift or a
    mask that is applied on one side only leaves a difference of that size.
    """
    promised = (*bench.card.vanishes, *bench.card.stationary)
    if not promised:
        return skipped("the card names no term that vanishes when the student equals the teacher")
    said = _compare(bench, promised, bench.values)
    if said.status == "failed" and _compare(bench, promised, {}).status == "ok":
        return warning(said.measured + "; with the method's default values it is zero", "Check the values you changed.")
    return said


def _compare(bench: Bench, promised: tuple[str, ...], values: Mapping[str, Any]) -> Said:
    network = bench.double
    teachers = [copy.deepcopy(network) for _ in bench.task.teachers]
    found = dict[str, tuple[Size, Size]]()
    for fit in bench.fits(lambda: copy.deepcopy(network).requires_grad_(True), teachers, values):
        found |= _sizes(fit, [term for term in promised if term not in found])
    for term, (same, moved) in found.items():
        if term in bench.card.vanishes and same.value > VALUE * moved.value + FLOOR:
            measured = (
                f"{term} = {same.value:.3g} when the student equals the teacher, {moved.value:.3g} when disturbed"
            )
            return _broken(measured)
        if same.gradient > GRADIENT * moved.gradient + FLOOR:
            measured = f"{term} has a gradient of {same.gradient:.3g} when the student equals the teacher"
            return _broken(f"{measured}, {moved.gradient:.3g} when disturbed")
    if not found:
        return skipped(f"{', '.join(promised)} did not appear, or stayed zero when the student was disturbed")
    said = (
        f"{term} = {same.value:.2g} (disturbed {moved.value:.2g}), gradient {same.gradient:.2g} ({moved.gradient:.2g})"
        for term, (same, moved) in found.items()
    )
    return ok("student = teacher: " + "; ".join(said))


def _broken(measured: str) -> Said:
    return failed(measured, "Give student and teacher the same input, temperature, mask and shift.")


def _sizes(fit: Fit, terms: Sequence[str]) -> dict[str, tuple[Size, Size]]:
    """By term, its size at equality and disturbed, at the first of three moments of a run when it has a gradient."""
    student, found = fit.method.student, dict[str, tuple[Size, Size]]()
    assert isinstance(student, nn.Module)
    fit.method.train()
    student.eval()
    for clock in (CLOCKS[1], CLOCKS[2], CLOCKS[0]):
        left = [term for term in terms if term not in found]
        with disturbed([p for p in fit.method.parameters() if p.requires_grad]):
            moved = {k: size for k, size in _measure(fit, student, clock, left).items() if size.gradient > FLOOR}
        if moved:
            same = _measure(fit, student, clock, list(moved))
            found |= {term: (same[term], moved[term]) for term in moved}
    return found


@contextmanager
def disturbed(parameters: Sequence[nn.Parameter]) -> Generator[None]:
    """Noise on the student, and on what is trained beside it, such as a critic; afterwards they are as they were."""
    kept, draws = [p.detach().clone() for p in parameters], torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in parameters:
            size = float(p.abs().mean()) or ZERO  # adapters begin at zero
            p += DISTURBED * size * torch.randn(p.shape, generator=draws).to(p)
    yield
    with torch.no_grad():
        for p, before in zip(parameters, kept, strict=True):
            p.copy_(before)


def _measure(fit: Fit, student: nn.Module, clock: Clock, terms: Sequence[str]) -> dict[str, Size]:
    found, parameters = dict[str, Size](), list(student.parameters())
    with same_draws():
        for update in updates(fit.method, _one_view(fit.batch), clock) if terms else ():
            for name in [name for name in terms if name in update.terms]:
                term = update.terms[name]
                squares = [float(g.double().square().sum()) for g in gradients(term, parameters) if g is not None]
                found[name] = Size(abs(float(term.detach())), sum(squares) ** 0.5)
    return found


def _one_view(batch: Any) -> Any:
    """The batch with the student's view for both, where there could be two."""
    return batch._replace(view=None) if "view" in batch._fields else batch
