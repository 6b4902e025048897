"""Diversity distillation on a ring of two classes of four modes: a four-step student that strong guidance has
narrowed, with and without its teacher's first step."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import batches, made, points, ring_teacher, train, world
from limbeck.diagnostics.generation import diversity, modes
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.diversity_distillation import DiversityDistillation
from limbeck.methods.diffusion.dmd2 import DMD2
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.sampling import Ode
from limbeck.run.evidence import Result

CLAIM = (
    "With its guided teacher for the first of four steps, a distilled student's samples of a class are as far apart "
    "as the "
    "teacher's own in fifty guided steps, at nine tenths of that distance or more."
)
TIMES, DISTIL, SCALE = (1.0, 0.75, 0.5, 0.25), 500, 3.0


def evidence(seed: int, data: Path | None = None) -> Result:
    """Diversity is the mean distance of two samples of one class, all guided alike."""
    mixture, teacher = world(classes=2), ring_teacher(seed, classes=2)
    real = points(mixture, seed=seed)
    torch.manual_seed(seed)
    method = DMD2(trainable(teacher), teacher, times=TIMES, ratio=2, gan=0.0, guidance=SCALE)
    train(method, batches(real, seed, 256), DISTIL, lr=5e-4)
    relay = trainable(method.student)
    DiversityDistillation(relay, teacher, guidance=SCALE)

    def judged(model: Denoiser, **how: object) -> tuple[float, int]:
        x, y = made(model, seed=seed, **how)  # type: ignore[arg-type]
        assert y is not None
        return diversity(x, y), modes(x, mixture.means, mixture.std)[0]

    drawn = torch.Generator().manual_seed(777 + seed)
    noise, y = teacher.noise(4000, drawn), torch.arange(4000) % 2
    with torch.no_grad():
        own = Ode(50)(Guided(teacher, SCALE), noise, y)
    student, handed = judged(method.student), judged(relay)
    return Result(
        metric="mean distance of two samples of one class",
        baseline=0.9 * diversity(own, y),
        method=handed[0],
        higher_is_better=True,
        versus="nine tenths of the teacher's in fifty guided steps",
        extra={
            "the student alone": student[0],
            "modes covered of 8, the student alone": float(student[1]),
            "modes covered of 8, with the first step": float(handed[1]),
            "modes covered of 8, teacher": float(modes(own, mixture.means, mixture.std)[0]),
        },
    )
