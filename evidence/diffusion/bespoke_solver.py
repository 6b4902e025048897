"""A bespoke solver on a ring of eight modes on the variance-preserving path, whose exact scores are known: four steps
of RK2, learnt, against the solvers that nobody trained, with as many evaluations."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import batches, distilled, made, points, swd
from limbeck.methods.diffusion.bespoke_solver import BespokeSolver
from limbeck.models.gaussian_mixture import exact, ring
from limbeck.models.path import VP
from limbeck.models.sampling import Ode
from limbeck.run.evidence import Result

CLAIM = (
    "A bespoke solver of second order ends nearer to the ordinary differential equation's end than the midpoint rule, "
    "DDIM and DPM-Solver++(2M) with the same eight evaluations, from noise that it was not trained on."
)
STEPS, BUDGET = 4, 150


def evidence(seed: int, data: Path | None = None) -> Result:
    """Against the best of the three plain solvers."""
    mixture = ring(8, std=0.1, path=VP())
    teacher = exact(mixture)
    torch.manual_seed(seed)
    source = batches(points(mixture, seed=seed), seed, 64)
    plain = distilled(BespokeSolver, lambda: teacher, teacher, source, 0, steps=STEPS)
    learnt = distilled(BespokeSolver, lambda: teacher, teacher, source, BUDGET, 2e-2, steps=STEPS)
    end, _ = made(teacher, 2000, seed, sampler=Ode(200, "heun"))

    def apart(model: object, sampler: object = None) -> float:
        return float((made(model, 2000, seed, sampler=sampler)[0] - end).square().mean().sqrt())

    errors = {
        "midpoint rule, four steps": apart(plain),
        "DDIM, eight steps": apart(teacher, Ode(8)),
        "DPM-Solver++(2M), eight steps": apart(teacher, Ode(8, "dpm2m")),
    }
    return Result(
        metric="root mean square distance to the end of 200 Heun steps, eight evaluations",
        baseline=min(errors.values()),
        method=apart(learnt),
        higher_is_better=False,
        versus="the best of three plain solvers",
        extra={
            **errors,
            "sliced Wasserstein distance, learnt": swd(learnt, mixture, seed)[0],
            "sliced Wasserstein distance, midpoint": swd(plain, mixture, seed)[0],
        },
    )
