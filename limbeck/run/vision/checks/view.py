"""Do student and teacher look at the same picture?"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from limbeck.run.checks.bench import CLOCKS, teachers_of, updates
from limbeck.run.checks.said import Said, failed, ok, skipped
from limbeck.run.checks.training import same, student_of
from limbeck.run.vision.bench import ImageBench as Bench


def one_view(bench: Bench) -> Said:
    """Student and teacher see the same pixels, or the two views that the run asks for."""
    if not bench.teaches:
        return skipped("no pretrained teacher takes part")
    method, batch = bench.fit()
    seen, taught = list[Tensor](), list[Tensor]()
    handles = [student_of(method.train()).register_forward_pre_hook(partial(_keep, seen))]
    handles += [teacher.register_forward_pre_hook(partial(_keep, taught)) for teacher in teachers_of(method)]
    try:
        for _ in updates(method, batch, CLOCKS[1]):
            pass
    finally:
        for handle in handles:
            handle.remove()
    if not taught or not seen:
        return skipped("a step does not run the teacher on images")
    wanted = seen if batch.view is None else [batch.teacher_x]
    strange = [x for x in taught if not any(same(x, y) for y in wanted)]
    asked = "the student's" if batch.view is None else f"the run's teacher view, {bench.batches.teacher_view!r}"
    if strange and (bench.card.loop == "alternating" or bench.card.data == "none"):
        return skipped(f"the method shows the teacher {len(strange)} batches of its own making")
    if strange:
        gap = min((float((strange[0] - y).abs().max()) for y in wanted if y.shape == strange[0].shape), default=1.0)
        measured = f"{len(strange)} of {len(taught)} inputs of the teacher are not {asked} (largest gap {gap:.3g})"
        return failed(measured, "Run student and teacher on batch.x and batch.teacher_x, changed alike.")
    return ok(f"{len(taught)} inputs of the teacher, pixel for pixel {asked}")


def _keep(seen: list[Tensor], _: nn.Module, inputs: tuple[Any, ...]) -> None:
    seen.append(inputs[0].detach())
