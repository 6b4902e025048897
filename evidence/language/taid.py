"""TAID against the fixed target that it ends at, from one supervised student."""

from __future__ import annotations

from pathlib import Path

from evidence._continuing import start
from evidence._language import nll
from limbeck import Method
from limbeck.methods.language.gkd import GKD
from limbeck.methods.language.taid import TAID
from limbeck.models.causal_lm import CausalLM
from limbeck.run.evidence import Result

CLAIM = (
    "From one supervised student, a target that moves from the student to the teacher (TAID, t from 0.4) leads to "
    "continuations that the teacher finds likelier than as many steps of forward KL to the teacher itself."
)
STEPS = 80


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same text, order, steps and optimiser in every arm."""
    world, extra = start(seed, data), dict[str, float]()

    def arm(name: str, method: Method) -> float:
        world.train(method, STEPS)
        assert isinstance(method.student, CausalLM)
        extra[f"held-out loss, {name}"] = nll(method.student, world.held)
        return world.judged(method.student)

    fixed = arm("forward KL", GKD(world.student(), world.teacher, lmbda=0.0, beta=0.0))
    moving = arm("TAID", TAID(world.student(), world.teacher))
    return Result(
        metric="the teacher's loss on the student's continuations, nats a word",
        baseline=fixed,
        method=moving,
        higher_is_better=False,
        versus="forward KL to the teacher",
        extra=extra,
    )
