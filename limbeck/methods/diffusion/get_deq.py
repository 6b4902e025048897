"""One-step diffusion distillation via deep equilibrium models (Geng, Pokle & Kolter, 2023).
https://arxiv.org/abs/2401.08639

A teacher makes pairs (e, x) of noise and sample once; a student of another kind, the generative equilibrium
transformer, regresses on them. The teacher is not needed again.

    u = W Inj(patches of e),    z_{k+1} = f(z_k, u, y),    k = 0 .. K-1,    z_0 ~ N(0, I)
    L = sum_{k = 1 .. K} gamma^(K - k) mean |Dec(z_k) - x|                                         over all iterates

All iterations are unrolled and all are held to the sample, the last most, so that fewer or more may be run later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Setting, roles
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.methods.diffusion._pairs import pairs
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.equilibrium import Equilibrium, equilibrium
from limbeck.models.sampling import Ode

CARD = Card(
    key="get_deq",
    title="One-Step Diffusion Distillation via Deep Equilibrium Models",
    authors="Zhengyang Geng, Ashwini Pokle, J. Zico Kolter",
    year=2023,
    url="https://arxiv.org/abs/2401.08639",
    repo="https://github.com/locuslab/get",
    family="diffusion",
    summary="A transformer of few tied blocks, iterated, learns a teacher's pairs of noise and sample in one step.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="labels",
    loop="pipeline",
    notes="The student is built here, of the teacher's shape and classes, unless it is an equilibrium model already. "
    "Of the training set only the labels are read. z_0 is zero in eval mode, so that samples are a function of their "
    "noise; the released code draws it. The average of the weights is left out.",
)


class GetDEQ(Method):
    """L1 to the teacher's samples at every iterate."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    pairs: Count | None = None
    """How many; left out, as many as the training set has samples. Paper: a million."""
    steps: Count = 18
    """Steps of Heun's method that make them. Paper: 18, 35 calls."""
    guidance: NonNegative = 1.0
    """The teacher's classifier-free guidance, off at 1."""
    iterations: Count = 6
    """K. Paper: 6."""
    width: Count = 64
    """Of the student's tokens. Paper: 256 to 768."""
    patch: Count = 2
    """Side of a patch of an image. Paper: 2."""
    injection: Count = 1
    """Blocks of Inj. Paper: 6, and 1 for the lightest."""
    blocks: Count = 1
    """Blocks of f. Paper: 3."""
    gamma: Fraction = 0.8
    """Weight of an iterate over that of the next; 1 weighs all alike, 0 holds the last alone. Released code: 0.8."""

    def __post_init__(self) -> None:
        if not isinstance(self.student.net, Equilibrium):
            raise InputError("student", type(self.student.net).__name__, "is no equilibrium model; see `equilibrium`")
        freeze(self.teacher)

    def loss(self, batch: Samples, clock: Clock) -> dict[str, Tensor]:
        assert batch.noise is not None
        made = self.student.net.iterates(batch.noise, self.labels(batch.y))
        return {"l1": sum(self.gamma**k * (x - batch.x).abs().mean() for k, x in enumerate(reversed(made)))}

    def labels(self, y: Tensor) -> Tensor | None:
        """As the network takes them: the null label for -1, none without classes."""
        null = len(self.student.classes)
        return torch.where(y < 0, null, y) if null else None

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Make the pairs, and fit an equilibrium model on them."""
        given, wanted = roles(cls, setting), {**values}
        if not isinstance(given["student"].net, Equilibrium):
            teacher: Denoiser = given["teacher"]
            sizes = {name: wanted.get(name, getattr(cls, name)) for name in SIZES}
            given["student"] = equilibrium(teacher.shape, teacher.classes, path=teacher.path, **sizes)
        method = cls(**given, **values)
        data, teacher = setting.data, Guided(method.teacher, method.guidance)
        count = method.pairs or len(data.data)
        made = pairs(teacher, data.data, count, sampler=Ode(method.steps, "heun"), seed=data.seed)
        setting.fit(method, data=data.with_data(made))
        return method.student


SIZES = ("iterations", "width", "patch", "injection", "blocks")
