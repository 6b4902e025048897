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
    "With its guided teacher for the first step, a distilled student gets back at least half of the diversity within a "
    "class that it lost against the teacher in fifty guided steps."
)
TIMES, DISTIL, SCALE = (1.0, 0.4, 0.2), 300, 3.0


def evidence(seed: int, data: Path | None = None) -> Result:
    """Diversity is the mean distance of two samples of one class, all guided alike."""
    mixture, teacher = world(classes=2), ring_teacher(seed, classes=2)
    real = points(mixture, seed=seed)
    torch.manual_seed(seed)
    method = DMD2(trainable(teacher), teacher, times=TIMES, ratio=1, gan=0.0, guidance=SCALE)
    train(method, batches(real, seed, 256), DISTIL, lr=5e-4)
    relay = trainable(method.student)
    DiversityDistillation(relay, teacher, guidance=SCALE, steps=5)

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
        baseline=(student[0] + diversity(own, y)) / 2,
        method=handed[0],
        higher_is_better=True,
        versus="half way from the student alone to its teacher",
        extra={
            "the student alone": student[0],
            "its teacher in fifty guided steps": diversity(own, y),
            "modes covered of 8, the student alone": float(student[1]),
            "modes covered of 8, with the first step": float(handed[1]),
            "modes covered of 8, teacher": float(modes(own, mixture.means, mixture.std)[0]),
        },
    )
