"""Adaptive collaboration on a ring of four classes: a two-step student, its guided teacher, and who is sent to the
teacher."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from evidence._diffusion import batches, made, points, ring_teacher, train, world
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.adaptive_teacher_student import AdaptiveTeacherStudent
from limbeck.methods.diffusion.dmd2 import DMD2
from limbeck.models.gaussian_mixture import GaussianMixture
from limbeck.run.evidence import Result

CLAIM = (
    "Sending the two fifths of a student's samples that score lowest to the teacher closes more of the distance "
    "between student and teacher, in the share of samples near a mode of their class, than sending two fifths at "
    "random."
)
TIMES, DISTIL, PERCENT = (1.0, 0.5), 200, 40.0


def evidence(seed: int, data: Path | None = None) -> Result:
    """The estimator is a density with modes twice as wide; the judge counts what is near a mode."""
    mixture, teacher = world(classes=4), ring_teacher(seed, classes=4)
    real = points(mixture, seed=seed)
    torch.manual_seed(seed)
    method = DMD2(trainable(teacher), teacher, times=TIMES, ratio=2, gan=0.0)
    train(method, batches(real, seed, 256), DISTIL, lr=5e-4)

    def quality(x: Tensor, y: Tensor | None) -> float:
        """The share of samples within four standard deviations of a mode of their class, %."""
        assert y is not None
        own = torch.where(mixture.labels == y[:, None], torch.cdist(x, mixture.means), torch.inf)
        return 100.0 * float((own.min(1).values < 4 * mixture.std).float().mean())

    def routed(reward: object, percent: float) -> float:
        model = trainable(method.student)
        torch.manual_seed(seed)
        made_of = AdaptiveTeacherStudent(
            model, teacher, reward, percent=percent, steps=10, guidance=1.0, rollback=0.5,  # type: ignore[arg-type]
        )  # fmt: skip
        made_of.calibrate()
        return quality(*made(model, seed=seed))

    drawn = torch.Generator().manual_seed(seed)

    wide = GaussianMixture(mixture.means, 2 * mixture.std, labels=mixture.labels)

    def density(x: Tensor, y: Tensor | None) -> Tensor:
        return wide.log_density(x, torch.zeros(len(x)), y)

    def blind(x: Tensor, y: Tensor | None) -> Tensor:
        return torch.rand(len(x), generator=drawn)

    return Result(
        metric="samples within four standard deviations of a mode of their class, %",
        baseline=routed(blind, PERCENT),
        method=routed(density, PERCENT),
        higher_is_better=True,
        versus="as many samples sent at random",
        extra={
            "the student alone, %": routed(blind, 0.0),
            "all refined by the teacher, %": routed(blind, 100.0),
            "two fifths by the teacher's evidence for the label, %": routed(None, PERCENT),
            "the lowest tenth, %": routed(density, 10.0),
        },
    )
