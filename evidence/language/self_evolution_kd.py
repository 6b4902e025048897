"""Self-evolution KD against the same blend of labels and teacher without help, from one supervised student.

Judged, as a translation would be, by what the student writes. The held-out loss, in ``extra``, pays for the help: hard
words, on which it is spent, weigh most there.
"""

from __future__ import annotations

from pathlib import Path

from evidence._continuing import start
from evidence._language import nll
from limbeck.methods.language.self_evolution_kd import SelfEvolutionKD
from limbeck.run.evidence import Result

CLAIM = (
    "From one supervised student, help on hard words (r_max 0.5) leads to continuations that the teacher finds "
    "likelier than as many steps of plain KL to the same blend of label and teacher (r_max 0)."
)
STEPS = 80


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same text, order, steps and optimiser in both arms."""
    world, extra = start(seed, data), dict[str, float]()

    def arm(r_max: float) -> float:
        student = world.student()
        world.train(SelfEvolutionKD(student, world.teacher, r_max=r_max), STEPS)
        extra[f"held-out loss, r_max {r_max}"] = nll(student, world.held)
        return world.judged(student)

    return Result(
        metric="the teacher's loss on the student's continuations, nats a word",
        baseline=arm(0.0),
        method=arm(0.5),
        higher_is_better=False,
        versus="no help",
        extra=extra,
    )
