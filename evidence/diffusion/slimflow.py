"""SlimFlow on a ring of eight modes: a small one-step student, by annealing and the two-step guide, and without
them."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, distilled, points, ring_teacher, swd, world
from limbeck.methods.diffusion.slimflow import SlimFlow
from limbeck.models.sampling import Ode
from limbeck.models.tiny_denoiser import mlp
from limbeck.run.evidence import Result

CLAIM = (
    "A fresh one-step student of a tenth of its teacher's weights comes nearer to the data, in sliced Wasserstein "
    "distance, by annealing reflow and the two-step guide than by plain reflow and distillation, with as many updates."
)
STEPS, PAIRS = 1000, 6000


def evidence(seed: int, data: Path | None = None) -> Result:
    """Half of the steps are reflow's in every arm."""
    mixture, teacher = world(), ring_teacher(seed)
    real = batches(points(mixture, seed=seed), seed, 256)

    def arm(**values: float) -> tuple[float, int]:
        torch.manual_seed(seed + 1)
        student = distilled(SlimFlow, lambda: mlp(32, 2), teacher, real, STEPS, lr=3e-3, pairs=PAIRS, **values)
        return swd(student, mixture, seed)

    distance, covered = arm()
    return Result(
        metric="sliced Wasserstein distance to the data, one step",
        baseline=arm(anneal=0.0, guide=0.0)[0],
        method=distance,
        higher_is_better=False,
        versus="the same updates of plain reflow and distillation",
        extra={
            "modes covered of 8": float(covered),
            "without the guide": arm(guide=0.0)[0],
            "teacher, one step": swd(teacher, mixture, seed, Ode(1))[0],
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
        },
    )
