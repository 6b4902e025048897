"""TDD on a ring of eight modes: targets that four to eight steps visit, any targets, and always 0; sampled in four."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, points, ring_teacher, swd, train, world
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.tdd import TDD
from limbeck.models.sampling import FewStep, Ode
from limbeck.run.evidence import Result

CLAIM = (
    "Sampled deterministically in four steps, a student whose targets are the times that samplers of four to eight "
    "steps visit comes nearer to the data, in sliced Wasserstein distance, than the same student trained to jump to 0."
)
STEPS = 400
FOUR = (1.0, 0.75, 0.5, 0.25)


def evidence(seed: int, data: Path | None = None) -> Result:
    """Every arm has the same steps and differs in the targets alone: n of 1 leaves 0, a wide window any time."""
    mixture, teacher = world(), ring_teacher(seed)
    real = points(mixture, seed=seed)

    def arm(n_min: int, n_max: int, window: float = 0.26, eta: float = 0.3) -> TDD:
        torch.manual_seed(seed + 1)
        method = TDD(
            trainable(teacher), teacher, n_min=n_min, n_max=n_max, window=window, eta=eta, grid=50, guidance=0.0
        )  # fmt: skip
        train(method, batches(real, seed, 256), STEPS)
        return method

    def distance(method: TDD, gamma: float) -> float:
        return swd(method.student, mixture, seed, FewStep(FOUR, gamma))[0]

    visited, zero = arm(4, 8), arm(1, 1)
    return Result(
        metric="sliced Wasserstein distance to the data, four deterministic steps",
        baseline=distance(zero, 0.0),
        method=distance(visited, 0.0),
        higher_is_better=False,
        versus="the same student whose target is always 0, as in latent consistency models",
        extra={
            "modes covered of 8": float(swd(visited.student, mixture, seed, FewStep(FOUR, 0.0))[1]),
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
            "teacher, 4 steps": swd(teacher, mixture, seed, Ode(4))[0],
            "any target": distance(arm(1, 50, 1.0, 0.0), 0.0),
            "target 0, sampled with fresh noise": distance(zero, 1.0),
        },
    )
