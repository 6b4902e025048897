"""DisBack on a ring of eight modes: a student that begins far from its teacher, with recorded teachers and without."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from evidence._diffusion import TEACHER, batches, distilled, points, ring_teacher, swd, train, world
from limbeck.methods.diffusion.disback import DisBack
from limbeck.methods.diffusion.dmd2 import DMD2
from limbeck.models.denoiser import Denoiser
from limbeck.models.tiny_denoiser import mlp
from limbeck.run.evidence import Result

CLAIM = (
    "A one-step student that begins far from its teacher converges faster towards recorded degraded teachers: at "
    "the same number of steps, the recording included, it is nearer to the data than by distribution matching "
    "alone."
)
STEPS, RATIO, DEGRADATION = 450, 3, 0.2


def far(seed: int) -> Denoiser:
    """A fresh student whose samples lie about (2, 2), the ring being of radius 1."""
    torch.manual_seed(seed + 1)
    model = mlp(96, 3)
    nn.init.constant_(model.net.leave.bias, -2.0)  # type: ignore[union-attr, arg-type]
    return model


def evidence(seed: int, data: Path | None = None) -> Result:
    """The host gets the recording's steps on top of its own."""
    mixture, teacher = world(), ring_teacher(seed)
    real = points(mixture, seed=seed)
    back = distilled(
        DisBack, lambda: far(seed), teacher, batches(real, seed, 256), STEPS, 5e-4, ratio=RATIO,
        degradation=DEGRADATION, stops=6,
    )  # fmt: skip
    host = DMD2(far(seed), teacher, ratio=RATIO, gan=0.0)
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
            "before": swd(far(seed), mixture, seed)[0],
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
        },
    )
