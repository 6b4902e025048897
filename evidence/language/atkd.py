"""ATKD against more supervised steps, from one supervised student; forward KL beside them.

The paper's students are pre-trained: they know the words that a teacher is sure of, and need not be taught them again.
A student as small as this one does not, and plain forward KL, in ``extra``, serves it better.
"""

from __future__ import annotations

from pathlib import Path

from evidence._continuing import start
from evidence._language import nll
from limbeck import Method
from limbeck.methods.language.atkd import ATKD
from limbeck.methods.language.gkd import GKD
from limbeck.methods.language.sft import SFT
from limbeck.models.causal_lm import CausalLM
from limbeck.run.evidence import Result

CLAIM = (
    "From one supervised student, gated parts of the KL to a teacher (ATKD, lambda 0.2), without any label, leave a "
    "lower held-out loss than as many supervised steps on the same text."
)
STEPS = 80


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same text, order, steps and optimiser in every arm."""
    world = start(seed, data)

    def arm(method: Method) -> float:
        world.train(method, STEPS)
        assert isinstance(method.student, CausalLM)
        return nll(method.student, world.held)

    return Result(
        metric="held-out loss, nats a word",
        baseline=arm(SFT(world.student())),
        method=arm(ATKD(world.student(), world.teacher)),
        higher_is_better=False,
        versus="more supervised steps",
        extra={"forward KL": arm(GKD(world.student(), world.teacher, lmbda=0.0, beta=0.0))},
    )
