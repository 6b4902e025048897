"""Hyper-SD on a ring of eight modes: consistency in segments in turn, then score distillation; sampled in one step.

The segments alone gained nothing here while this was built (seeds 0 and 1): after as many updates a single segment was
as near in four steps and nearer in one. What is held is the whole procedure, without its discriminator.
"""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, distilled, points, ring_teacher, swd, world
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.hyper_sd import HyperSD
from limbeck.models.denoiser import Denoiser
from limbeck.models.sampling import FewStep, Ode
from limbeck.run.evidence import Result

CLAIM = (
    "Segmented consistency followed by score distillation comes in one step at least twice as near to the data, in "
    "sliced Wasserstein distance, as trajectory consistency over the whole of time with as many updates."
)
STEPS, LATER, RATIO = 150, 0.5, 5
UPDATES = round(STEPS * (1 + LATER * (1 + RATIO)))  # the critic's are counted too


def evidence(seed: int, data: Path | None = None) -> Result:
    """The distance of the whole-time student is halved, so that a gain above zero is the claim."""
    mixture, teacher = world(), ring_teacher(seed)
    real = points(mixture, seed=seed)

    def arm(stages: tuple[str, ...], segments: tuple[int, ...], steps: int) -> Denoiser:
        torch.manual_seed(seed + 1)
        return distilled(
            HyperSD, lambda: trainable(teacher), teacher, batches(real, seed, 256), steps,
            stages=stages, segments=segments, guidance=1.0, gan=0.0, ratio=RATIO, later=LATER,
        )  # fmt: skip

    def near(student: Denoiser, times: tuple[float, ...]) -> float:
        return swd(student, mixture, seed, FewStep(times, 0.3))[0]

    student = arm(("consistency", "score"), (8, 4, 2, 1), STEPS)
    whole = arm(("consistency",), (1,), UPDATES)
    four = (1.0, 0.75, 0.5, 0.25)
    return Result(
        metric="sliced Wasserstein distance to the data, one step",
        baseline=near(whole, (1.0,)) / 2,
        method=near(student, (1.0,)),
        higher_is_better=False,
        versus="half the distance of consistency over the whole of time, as many updates",
        extra={
            "modes covered of 8": float(swd(student, mixture, seed, FewStep())[1]),
            "teacher, 1 step": swd(teacher, mixture, seed, Ode(1))[0],
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
            "4 steps": near(student, four),
            "whole time, 4 steps": near(whole, four),
        },
    )
