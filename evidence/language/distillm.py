"""DistiLLM's divergence against the reverse KL that it skews, from one supervised student."""

from __future__ import annotations

from pathlib import Path

from evidence._continuing import start
from evidence._language import kl_to
from limbeck.methods.language.distillm import DistiLLM
from limbeck.methods.language.gkd import GKD
from limbeck.run.evidence import Result

CLAIM = (
    "From one supervised student, skewed reverse KL (DistiLLM, alpha 0.1) on the data's answers brings it nearer to "
    "the teacher on held-out text, in KL(teacher || student), than as many steps of reverse KL."
)
STEPS = 80


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same text, order, steps and optimiser; phi stays 0, so that the divergence is all that differs."""
    world = start(seed, data)
    plain = GKD(world.student(), world.teacher, lmbda=0.0, beta=1.0)
    skewed = DistiLLM(world.student(), world.teacher)
    for method in (plain, skewed):
        world.train(method, STEPS)
    return Result(
        metric="held-out KL(teacher || student), nats a word",
        baseline=kl_to(world.teacher, plain.student, world.held),
        method=kl_to(world.teacher, skewed.student, world.held),
        higher_is_better=False,
        versus="reverse KL",
        extra={
            "teacher's loss on what reverse KL writes": world.judged(plain.student),
            "teacher's loss on what DistiLLM writes": world.judged(skewed.student),
        },
    )
