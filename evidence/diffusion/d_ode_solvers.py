"""D-ODE solvers on digits: DDIM with four steps, as it is and with a fitted number a step, from noise it was not
fitted on."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import digits, digits_teacher, distilled, fid, judge, made
from limbeck.methods.diffusion.d_ode_solvers import DODESolvers
from limbeck.models.sampling import Ode
from limbeck.run.evidence import Result

CLAIM = (
    "With one fitted number a step, DDIM in four steps ends at least twice as near to where two hundred steps end from "
    "the same noise, on noise that the numbers were not fitted on."
)
STEPS = 4


def evidence(seed: int, data: Path | None = None) -> Result:
    """The plain solver's distance is divided by two, so that a gain above zero is the claim."""
    teacher, eyes, real = digits_teacher(data, seed), judge(data), digits(data)
    torch.manual_seed(seed + 1)
    student = distilled(DODESolvers, lambda: teacher, teacher, None, 0, steps=STEPS)
    end, _ = made(teacher, 1000, seed, sampler=Ode(200))

    def apart(model: object, sampler: object = None) -> float:
        return float((made(model, 1000, seed, sampler=sampler)[0] - end).square().mean().sqrt())

    return Result(
        metric="root mean square distance to the end of 200 steps, four steps",
        baseline=apart(teacher, Ode(STEPS)) / 2,
        method=apart(student),
        higher_is_better=False,
        versus="half the distance of the plain solver",
        extra={
            "Frechet distance, plain": fid(teacher, eyes, real, seed, Ode(STEPS)),
            "Frechet distance, fitted": fid(student, eyes, real, seed),
            "Frechet distance, 200 steps": fid(teacher, eyes, real, seed, Ode(200)),
        },
    )
