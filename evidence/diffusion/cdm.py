"""CDM on a ring of eight modes: sampled in step counts that a fixed schedule of four was not trained for."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from evidence._diffusion import TEACHER, batches, points, ring_teacher, swd, train, world
from limbeck.core.method import Method
from limbeck.data.samples import Samples
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.cdm import CDM
from limbeck.methods.diffusion.dmd2 import DMD2
from limbeck.models.denoiser import Denoised, Denoiser
from limbeck.models.sampling import FewStep
from limbeck.run.evidence import Result

CLAIM = (
    "A student trained at random times of runs of random length, and off their paths, is nearer to the data, on "
    "average over 2, 3 and 6 steps, than one trained by the same matching on a fixed schedule of four."
)
STEPS, RATIO, COUNTS, FOUR = 300, 2, (2, 3, 6), (1.0, 0.75, 0.5, 0.25)


@torch.no_grad()
def four(method: CDM, batch: Samples) -> tuple[list[Tensor], list[Denoised]]:
    """A run on the fixed schedule."""
    states, said = [torch.randn_like(batch.x)], list[Denoised]()
    for t, s in itertools.pairwise((*FOUR, 0.0)):
        said.append(method.student(states[-1], t, batch.y))
        states.append(said[-1].at(s))
    return states[:-1], said


def evidence(seed: int, data: Path | None = None) -> Result:
    """All are sampled at even times: without noise between the steps, and DMD2 with fresh noise."""
    mixture, teacher = world(), ring_teacher(seed)
    real = points(mixture, seed=seed)

    def at(model: Denoiser, count: int, gamma: float = 0.0) -> float:
        return swd(model, mixture, seed, FewStep(tuple(1 - k / count for k in range(count)), gamma))[0]

    def trained(method: Method) -> Denoiser:
        train(method, batches(real, seed, 256), STEPS, lr=1e-3)
        return method.student  # type: ignore[return-value]

    torch.manual_seed(seed + 1)
    own = trained(CDM(trainable(teacher), teacher, guidance=0.0, ratio=RATIO, longest=8))
    torch.manual_seed(seed + 1)
    method = CDM(trainable(teacher), teacher, guidance=0.0, ratio=RATIO, off_path=0.0)
    method.rollout = partial(four, method)  # type: ignore[method-assign]
    fixed = trained(method)
    torch.manual_seed(seed + 1)
    fresh = trained(DMD2(trainable(teacher), teacher, times=FOUR, ratio=RATIO, gan=0.0))
    ours, theirs = ({n: at(model, n) for n in (*COUNTS, 4)} for model in (own, fixed))
    return Result(
        metric="sliced Wasserstein distance to the data, mean over 2, 3 and 6 steps",
        baseline=sum(theirs[n] for n in COUNTS) / len(COUNTS),
        method=sum(ours[n] for n in COUNTS) / len(COUNTS),
        higher_is_better=False,
        versus="the same matching on a fixed schedule of four steps, for as many training steps",
        extra={
            "4 steps": ours[4],
            "fixed schedule, 4 steps": theirs[4],
            "DMD2 of four steps with fresh noise, mean over 2, 3 and 6": sum(at(fresh, n, 1.0) for n in COUNTS) / 3,
            "teacher, 4 steps": at(teacher, 4),
            "teacher, 50 steps": swd(teacher, mixture, seed, TEACHER)[0],
        },
    )
