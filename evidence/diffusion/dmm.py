"""DMM on rings of three sizes: three fine-tunes of one model of the unit ring, merged by averaging their weights and by
distillation with an embedding of whom to be."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from evidence._diffusion import TEACHER, batches, made, points, ring_teacher, train
from limbeck.core.modules import freeze
from limbeck.data.samples import SampleSet
from limbeck.diagnostics.generation import sliced_wasserstein
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.denoising import Denoising
from limbeck.methods.diffusion.dmm import DMM
from limbeck.models.denoiser import Denoiser
from limbeck.models.gaussian_mixture import ring
from limbeck.models.sampling import Ode
from limbeck.run.evidence import Result

CLAIM = (
    "A student merged by distillation and told whom to be comes at least twice as near to each of three fine-tuned "
    "teachers, in sliced Wasserstein distance between their samples, as the average of the teachers' weights."
)
RADII, TUNING, BUDGET = (0.6, 1.0, 1.5), 300, 500


def evidence(seed: int, data: Path | None = None) -> Result:
    """The average's distance is divided by two, so that a gain above zero is the claim."""
    base = ring_teacher(seed)
    teachers, seen = [], []
    for radius in RADII:
        real = points(ring(8, radius=radius, std=0.06), 8_000, seed)
        torch.manual_seed(seed)
        tuned = trainable(base)
        train(Denoising(tuned), batches(real, seed, 256), TUNING, lr=1e-3)
        teachers.append(freeze(tuned))
        seen.append(real)
    targets = [made(teacher, seed=seed, sampler=TEACHER)[0] for teacher in teachers]

    def apart(model: Denoiser, which: int, told: tuple[float, ...] = ()) -> float:
        x, _ = made(model, seed=seed + 1, sampler=Ode(50, "dpm2m", extra=told))
        return sliced_wasserstein(x, targets[which])

    average = trainable(base)
    parts = [teacher.state_dict() for teacher in teachers]
    average.load_state_dict({k: torch.stack([p[k] for p in parts]).mean(0) for k in parts[0]})

    pool = SampleSet(torch.cat([s.x for s in seen]), torch.cat([s.y for s in seen]), name="rings")
    torch.manual_seed(seed)
    method = DMM(trainable(base).told(len(RADII)), nn.ModuleList(teachers))
    train(method, batches(pool, seed, 384), BUDGET, lr=2e-3)
    each = [apart(method.student, k, tuple(method.who(k))) for k in range(len(RADII))]
    blind = [apart(method.student, k, (1 / 3, 1 / 3, 1 / 3)) for k in range(len(RADII))]
    return Result(
        metric="mean sliced Wasserstein distance to the teachers' samples",
        baseline=sum(apart(average, k) for k in range(len(RADII))) / len(RADII) / 2,
        method=sum(each) / len(RADII),
        higher_is_better=False,
        versus="half the distance of the average of the weights",
        extra={
            "an equal mixture of the three": sum(blind) / len(RADII),
            "a teacher against itself, other noise": sliced_wasserstein(
                made(teachers[1], seed=seed + 1, sampler=TEACHER)[0], targets[1]
            ),
        },
    )
