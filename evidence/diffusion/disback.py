"""DisBack on a ring of eight modes: a student that begins as its teacher, with recorded teachers and without.

One step is at 0.148 where the teacher's fifty are at 0.041: the comparison is of speed, after 240 steps, before either
has arrived; four times as many came to 0.107 on a building seed.
"""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, distilled, points, ring_teacher, swd, train, world
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.disback import DisBack
from limbeck.methods.diffusion.dmd2 import DMD2
from limbeck.models.denoiser import Denoiser
from limbeck.models.sampling import Ode
from limbeck.run.evidence import Result

CLAIM = (
    "A one-step student converges faster towards recorded degraded teachers: after the same number of steps, the "
    "recording included, it is nearer to the data than by distribution matching alone."
)
STEPS, RATIO, DEGRADATION = 240, 3, 0.2


def evidence(seed: int, data: Path | None = None) -> Result:
    """The host gets the recording's steps on top of its own; without a way back, only the critic begins better."""
    mixture, teacher = world(), ring_teacher(seed)
    real = points(mixture, seed=seed)

    def recorded(backtracking: float) -> Denoiser:
        torch.manual_seed(seed + 1)
        return distilled(
            DisBack, lambda: trainable(teacher), teacher, batches(real, seed, 256), STEPS, 5e-4, ratio=RATIO,
            degradation=DEGRADATION, backtracking=backtracking, stops=6,
        )  # fmt: skip

    back, begun = recorded(0.5), recorded(0.0)
    torch.manual_seed(seed + 1)
    host = DMD2(trainable(teacher), teacher, ratio=RATIO, gan=0.0)
    train(host, batches(real, seed, 256), round(STEPS * (1 + DEGRADATION)), lr=5e-4)
    distance, covered = swd(back, mixture, seed)
    plain = swd(host.student, mixture, seed)
    return Result(
        metric="sliced Wasserstein distance to the data, one step",
        baseline=plain[0],
        method=distance,
        higher_is_better=False,
        versus="distribution matching alone, for as many steps in all",
        extra={
            "modes covered of 8": float(covered),
            "matching alone: modes covered of 8": float(plain[1]),
            "the critic's better beginning alone": swd(begun, mixture, seed)[0],
            "teacher, 1 step": swd(teacher, mixture, seed, Ode(1))[0],
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
        },
    )
