"""D-ODE solvers on digits: DDIM with four steps, as it is and with a fitted number a step, from noise it was not
fitted on.
"""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import digits, digits_teacher, distilled, fid, judge, made
from limbeck.methods.diffusion.d_ode_solvers import DODESolvers
from limbeck.models.sampling import Ode
from limbeck.run.evidence import Result

CLAIM = (
    "With one fitted number a step, DDIM in four steps makes samples that are nearer to the data, in Frechet distance, "
    "than plain DDIM with as many steps."
)
STEPS = 4


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same network, noise and number of evaluations."""
    teacher, eyes, real = digits_teacher(data, seed), judge(data), digits(data)
    torch.manual_seed(seed + 1)
    student = distilled(DODESolvers, lambda: teacher, teacher, None, 0, steps=STEPS)
    end, _ = made(teacher, 500, seed, sampler=Ode(200))

    def apart(model: object, sampler: object = None) -> float:
        return float((made(model, 500, seed, sampler=sampler)[0] - end).square().mean().sqrt())

    return Result(
        metric="Frechet distance in a digit classifier's features, four steps",
        baseline=fid(teacher, eyes, real, seed, Ode(STEPS)),
        method=fid(student, eyes, real, seed),
        higher_is_better=False,
        versus="plain DDIM with four steps",
        extra={
            "root mean square distance to the end of 200 steps, plain": apart(teacher, Ode(STEPS)),
            "root mean square distance to the end of 200 steps, fitted": apart(student),
            "Frechet distance, 200 steps": fid(teacher, eyes, real, seed, Ode(200)),
        },
    )
