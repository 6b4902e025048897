"""CDM on a ring of eight modes: sampled in step counts that a fixed schedule of four was not trained for."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, points, ring_teacher, swd, train, world
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.cdm import CDM
from limbeck.methods.diffusion.dmd2 import DMD2
from limbeck.models.denoiser import Denoiser
from limbeck.models.sampling import FewStep
from limbeck.run.evidence import Result

CLAIM = (
    "A student trained at random times of runs of random length is nearer to the data, on average over 2, 3 and 6 "
    "steps, than one trained by distribution matching on a fixed schedule of four."
)
STEPS, RATIO, COUNTS = 400, 2, (2, 3, 6)


def evidence(seed: int, data: Path | None = None) -> Result:
    """Each is sampled by its own rule, at even times: without noise between the steps, and with fresh noise."""
    mixture, teacher = world(), ring_teacher(seed)
    real = points(mixture, seed=seed)

    def at(model: Denoiser, count: int, gamma: float) -> float:
        return swd(model, mixture, seed, FewStep(tuple(1 - k / count for k in range(count)), gamma))[0]

    torch.manual_seed(seed + 1)
    own = CDM(trainable(teacher), teacher, guidance=0.0, ratio=RATIO, longest=8)
    train(own, batches(real, seed, 256), STEPS, lr=5e-4)
    torch.manual_seed(seed + 1)
    fixed = DMD2(trainable(teacher), teacher, times=(1.0, 0.75, 0.5, 0.25), ratio=RATIO, gan=0.0)
    train(fixed, batches(real, seed, 256), STEPS, lr=5e-4)
    ours = {n: at(own.student, n, 0.0) for n in (*COUNTS, 4)}
    theirs = {n: at(fixed.student, n, 1.0) for n in (*COUNTS, 4)}
    return Result(
        metric="sliced Wasserstein distance to the data, mean over 2, 3 and 6 steps",
        baseline=sum(theirs[n] for n in COUNTS) / len(COUNTS),
        method=sum(ours[n] for n in COUNTS) / len(COUNTS),
        higher_is_better=False,
        versus="distribution matching on a fixed schedule of four steps, for as many steps",
        extra={
            "4 steps": ours[4],
            "fixed schedule, 4 steps": theirs[4],
            "teacher, 4 steps": at(teacher, 4, 0.0),
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
        },
    )
