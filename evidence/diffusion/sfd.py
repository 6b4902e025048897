"""SFD on a ring of eight modes: four Euler steps along the student's own trajectory, and the teacher's four."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, made, points, ring_teacher, swd, train, world
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.sfd import SFD
from limbeck.models.denoiser import Denoiser
from limbeck.models.sampling import Ode
from limbeck.run.evidence import Result

CLAIM = (
    "Four Euler steps, after 250 batches of noise, end at least three times nearer to where the teacher's many steps "
    "end from the same noise than the teacher's own four Euler steps do."
)
BATCHES = 250


def evidence(seed: int, data: Path | None = None) -> Result:
    """The distance of the teacher's four steps is divided by three, so that a gain above zero is the claim."""
    mixture, teacher = world(), ring_teacher(seed)
    ends = made(teacher, seed=seed, sampler=TEACHER)[0]
    torch.manual_seed(seed + 1)
    method = SFD(trainable(teacher), teacher)
    train(method, batches(points(mixture, seed=seed), seed, 256), BATCHES, lr=5e-4)

    def off(model: Denoiser, sampler: Ode | None = None) -> float:
        return float((made(model, seed=seed, sampler=sampler)[0] - ends).square().mean().sqrt())

    return Result(
        metric="root mean square distance to the teacher's fifty steps from the same noise",
        baseline=off(teacher, Ode(4)) / 3,
        method=off(method.student),
        higher_is_better=False,
        versus="a third of the distance of the teacher's own four Euler steps",
        extra={
            "sliced Wasserstein distance to the data": swd(method.student, mixture, seed)[0],
            "that of the teacher's four steps": swd(teacher, mixture, seed, Ode(4))[0],
            "of the teacher's four steps of second order": swd(teacher, mixture, seed, Ode(4, "dpm2m"))[0],
        },
    )
