"""DPKD against more supervised steps on the same prompts, from one supervised student.

A form with answers of twelve words and 60 steps was recorded first, on seeds 100 to 104: it did not hold, -0.03 [-0.04,
-0.02], and had been tried on no other seed. This is the form that was built with, answers as long as the supervised
arm's, on seeds that neither used.
"""

from __future__ import annotations

from pathlib import Path

from evidence._continuing import start
from evidence._language import kl_to, nll
from limbeck.methods.language.dpkd import DPKD
from limbeck.methods.language.sft import SFT
from limbeck.run.evidence import Result

CLAIM = (
    "From one supervised student, preferring the teacher's continuations to its own (DPKD, sequences, beta 0.1, k 0.5) "
    "brings it nearer to the teacher, in held-out KL(teacher || student), than as many supervised steps on the data's."
)
STEPS, SAID = 150, 24


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same prompts, order, steps and optimiser in both arms."""
    world = start(seed, data)
    supervised = SFT(world.student())
    preferring = DPKD(world.student(), world.teacher, longest=SAID)
    for method in (supervised, preferring):
        world.train(method, STEPS)
    return Result(
        metric="held-out KL(teacher || student), nats a word",
        baseline=kl_to(world.teacher, supervised.student, world.held),
        method=kl_to(world.teacher, preferring.student, world.held),
        higher_is_better=False,
        versus="more supervised steps",
        extra={
            "held-out loss, supervised": nll(supervised.student, world.held),
            "held-out loss, DPKD": nll(preferring.student, world.held),
        },
    )
