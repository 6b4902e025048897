"""MMD-DDM on images of a few pixels: five DDIM steps before and after, judged by features that were not trained on."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, digits, digits_teacher, fid, judge, train
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.denoising import Denoising
from limbeck.methods.diffusion.mmd_ddm import MMDDDM
from limbeck.models.sampling import Ode
from limbeck.run.evidence import Result

CLAIM = (
    "A hundred and fifty updates of a sampler of five steps, by the discrepancy of one network's features, lower its "
    "Frechet distance to the data by at least two fifths in the features of another network."
)
STEPS = 150


def evidence(seed: int, data: Path | None = None) -> Result:
    """The distance before is multiplied by 0.6, so that a gain above zero is the claim."""
    real, teacher, eyes = digits(data), digits_teacher(data, seed), judge(data)
    torch.manual_seed(seed + 1)
    method = MMDDDM(trainable(teacher), teacher)
    train(method, batches(real, seed, 128), STEPS, lr=2e-4)
    torch.manual_seed(seed + 1)
    longer = Denoising(trainable(teacher))
    train(longer, batches(real, seed, 128), STEPS, lr=2e-4)
    before = fid(teacher, eyes, real, seed, Ode(5))
    return Result(
        metric="Frechet distance in a digit classifier's features, five steps",
        baseline=0.6 * before,
        method=fid(method.student, eyes, real, seed),
        higher_is_better=False,
        versus="0.6 times the distance of the five steps before",
        extra={
            "five steps before": before,
            "after as many updates of denoising": fid(longer.student, eyes, real, seed, Ode(5)),
            "teacher, 50 steps": fid(teacher, eyes, real, seed, TEACHER),
        },
    )
