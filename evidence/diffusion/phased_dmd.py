"""Phased DMD on a ring of eight modes: two steps by two experts, and two steps of one network."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, distilled, points, ring_teacher, swd, train, world
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.dmd2 import DMD2
from limbeck.methods.diffusion.phased_dmd import PhasedDMD
from limbeck.models.sampling import FewStep, Ode
from limbeck.run.evidence import Result

CLAIM = (
    "In two steps, two experts trained phase by phase come nearer to the data, in sliced Wasserstein distance, than "
    "one network trained by distribution matching at both steps, after as many training steps in all."
)
STEPS, RATIO = 250, 3


def evidence(seed: int, data: Path | None = None) -> Result:
    """Each phase takes half of the other's steps."""
    mixture, teacher = world(), ring_teacher(seed)
    real = points(mixture, seed=seed)
    torch.manual_seed(seed + 1)
    student = distilled(
        PhasedDMD, lambda: trainable(teacher), teacher, batches(real, seed, 256), STEPS, 5e-4, steps=1, ratio=RATIO
    )
    torch.manual_seed(seed + 1)
    one = DMD2(trainable(teacher), teacher, times=(1.0, 0.5), ratio=RATIO, gan=0.0)
    train(one, batches(real, seed, 256), 2 * STEPS, lr=5e-4)
    distance, covered = swd(student, mixture, seed)
    baseline, theirs = swd(one.student, mixture, seed)
    return Result(
        metric="sliced Wasserstein distance to the data, two steps",
        baseline=baseline,
        method=distance,
        higher_is_better=False,
        versus="one network of two steps, distribution matching, as many steps in all",
        extra={
            "modes covered of 8": float(covered),
            "one network: modes covered of 8": float(theirs),
            "the experts at the teacher's weights": swd(teacher, mixture, seed, FewStep((1.0, 0.5), gamma=0.0))[0],
            "teacher, 1 step": swd(teacher, mixture, seed, Ode(1))[0],
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
        },
    )
