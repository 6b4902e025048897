"""Is there nothing to learn from a teacher that is the student?"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.run.checks.bench import CLOCKS, Bench, Fit, gradients, same_draws, updates
from limbeck.run.checks.said import Said, failed, ok, skipped, warning

DISTURBED = 0.1  # of their mean size is added to parameters as noise, to see how large a term is otherwise
VALUE, GRADIENT, FLOOR = 1e-3, 1e-2, 1e-6  # of that size, what is left at equality may have

Found = dict[str, tuple[float, float]]  # by term: its size, and that of its gradient


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
    network = bench.task.teachers[0] if bench.task.teachers else bench.student
    teachers = [copy.deepcopy(network) for _ in bench.task.teachers]
    fits = bench.fits(lambda: copy.deepcopy(network).requires_grad_(True), teachers, values)
    found = [pair for fit in fits for pair in _pairs(fit, promised)]
    said: list[str] = []
    for term in promised:
        seen = [(same[term], moved[term]) for same, moved in found if term in same and moved[term][1] > FLOOR]
        for (value, slope), (usual, steep) in seen:
            if term in bench.card.vanishes and value > VALUE * usual + FLOOR:
                return _broken(f"{term} = {value:.3g} when the student equals the teacher, {usual:.3g} when disturbed")
            if slope > GRADIENT * steep + FLOOR:
                measured = f"{term} has a gradient of {slope:.3g} when the student equals the teacher"
                return _broken(f"{measured}, {steep:.3g} when disturbed")
        if seen:
            (value, slope), (usual, steep) = max(seen, key=lambda pair: pair[1])
            said.append(f"{term} = {value:.2g} (else {usual:.2g}), gradient {slope:.2g} (else {steep:.2g})")
    if not said:
        return skipped(f"{', '.join(promised)} did not appear, or stayed zero when the student was disturbed")
    return ok("student = teacher: " + "; ".join(said))


def _broken(measured: str) -> Said:
    return failed(measured, "Give student and teacher the same input, temperature, mask and shift.")


def _pairs(fit: Fit, terms: tuple[str, ...]) -> list[tuple[Found, Found]]:
    """The terms at equality and with the student disturbed, at three moments of a run."""
    student = fit.method.student
    assert isinstance(student, nn.Module)
    fit.method.train()
    student.eval()
    same = [_measure(fit, student, k, terms) for k in range(len(CLOCKS))]
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in student.parameters():
            p += DISTURBED * p.abs().mean() * torch.randn(p.shape, generator=draws).to(p)
    moved = [_measure(fit, student, k, terms) for k in range(len(CLOCKS))]
    return [(a, {term: b.get(term, (0.0, 0.0)) for term in a}) for a, b in zip(same, moved, strict=True)]


def _measure(fit: Fit, student: nn.Module, moment: int, terms: tuple[str, ...]) -> Found:
    found, parameters = Found(), list(student.parameters())
    with same_draws():
        for update in updates(fit.method, fit.batch._replace(view=None), CLOCKS[moment]):
            for name in [name for name in terms if name in update.terms]:
                term = update.terms[name]
                found[name] = (abs(float(term.detach())), _slope(term, parameters))
    return found


def _slope(term: Tensor, parameters: list[nn.Parameter]) -> float:
    """The norm of a term's gradient."""
    return sum(float(g.double().square().sum()) for g in gradients(term, parameters) if g is not None) ** 0.5
