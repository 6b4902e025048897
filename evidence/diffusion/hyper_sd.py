"""Hyper-SD on a ring of eight modes: segments 8, 4, 2, 1 in turn against one segment from the start, in four steps."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, points, ring_teacher, swd, train, world
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.hyper_sd import HyperSD
from limbeck.models.sampling import FewStep, Ode
from limbeck.run.evidence import Result

CLAIM = (
    "Consistency within eight segments, then four, two and one, brings a student in four steps nearer to the data, in "
    "sliced Wasserstein distance, than consistency over the whole of time for as many updates."
)
STEPS = 500


def evidence(seed: int, data: Path | None = None) -> Result:
    """Both arms have the squared distance alone; sampled by the method's own four steps, with its share of noise."""
    mixture, teacher = world(), ring_teacher(seed)
    real = points(mixture, seed=seed)

    def arm(segments: tuple[int, ...]) -> HyperSD:
        torch.manual_seed(seed + 1)
        method = HyperSD(trainable(teacher), teacher, segments=segments, guidance=1.0, gan=0.0)
        train(method, batches(real, seed, 256), STEPS)
        return method

    turns, whole = arm((8, 4, 2, 1)), arm((1,))
    distance, covered = swd(turns.student, mixture, seed)
    return Result(
        metric="sliced Wasserstein distance to the data, four steps",
        baseline=swd(whole.student, mixture, seed)[0],
        method=distance,
        higher_is_better=False,
        versus="one segment from the start, as many updates",
        extra={
            "modes covered of 8": float(covered),
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
            "teacher, 4 steps": swd(teacher, mixture, seed, Ode(4))[0],
            "2 steps": swd(turns.student, mixture, seed, FewStep((1.0, 0.5), 0.3))[0],
            "one segment, 2 steps": swd(whole.student, mixture, seed, FewStep((1.0, 0.5), 0.3))[0],
            "1 step": swd(turns.student, mixture, seed, FewStep())[0],
            "one segment, 1 step": swd(whole.student, mixture, seed, FewStep())[0],
        },
    )
