"""Efficient distillation of classifier-free guidance using adapters (Jensen & Sadat, 2025).
https://arxiv.org/abs/2503.07274

Small adapters on a frozen network make one call say what guidance says in two, for a scale w that is an input. They
learn on the guided model's own trajectories, because those, not noised data, are the states that will be seen:

    eps_w(x, t, c) = eps(x, t, 0) + w (eps(x, t, c) - eps(x, t, 0))           along guided trajectories, w ~ U(1, 6)
    h_out          = Block(h) + MLP(E_w(w) + E_t(t) + E_c(c))                 broadcast over the tokens
    L              = E ||eps_{theta, psi}(x_t, t, c, w) - eps_w||^2           the base theta is frozen, psi learns
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, Positive, Setting
from limbeck.core.modules import freeze
from limbeck.data.stream import Stream
from limbeck.errors import InputError
from limbeck.methods.diffusion._shared import trainable
from limbeck.models.denoiser import Denoiser, guide
from limbeck.models.output_adapter import OutputAdapters, blocks_of
from limbeck.models.sampling import Ode, grid

CARD = Card(
    key="adapter_guidance_distillation",
    title="Efficient Distillation of Classifier-Free Guidance using Adapters",
    authors="Cristian Perez Jensen, Seyedmorteza Sadat",
    year=2025,
    url="https://arxiv.org/abs/2503.07274",
    repo="https://github.com/cristianpjensen/agd",
    family="diffusion",
    summary="Small adapters on a frozen model replace the second call of guidance, trained on guided trajectories.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="features",
    loop="pipeline",
    notes="The additive adapter, the default of the paper; both weight and bias of its last layer begin at zero, "
    "which the released code's flag leaves undone. The scale is told divided by its largest value, not times a "
    "thousand.",
)


class Guidances(NamedTuple):
    """States of guided trajectories and what guidance said there, a row each."""

    x: Tensor
    t: Tensor
    y: Tensor
    w: Tensor
    eps: Tensor


class Recorded(Stream[Guidances]):
    """Batches of stored states, shuffled across the trajectories."""

    def __init__(self, rows: Guidances, batch: int, seed: int) -> None:
        super().__init__(len(rows.x), min(batch, len(rows.x)), seed=seed, shuffle=True, drop_last=False)
        self.kept = rows

    def make(self, index: Tensor) -> Guidances:
        return Guidances(*(part[index] for part in self.kept))


@torch.no_grad()
def record(teacher: Denoiser, y: Tensor, w: Tensor, steps: int, start: float = 1.0) -> Guidances:
    """Guided trajectories for labels (N,) with scales (N,): steps * N rows."""
    x, rows = teacher.prior(teacher.noise(len(y)), start), []
    times = grid(steps, start)
    for t, s in itertools.pairwise(times):
        said = guide(teacher, x, t, y, w)
        rows.append(Guidances(x, torch.full_like(w, t), y, w, said.eps))
        x = said.at(s)
    return Guidances(*(torch.cat(part) for part in zip(*rows, strict=True)))


class AdapterGuidanceDistillation(Method):
    """A frozen model with adapters, told the scale of its guidance."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    w_min: Positive = 1.0
    """The smallest scale that is drawn; 1 is no guidance. Paper: 1."""
    w_max: Positive = 6.0
    """The largest scale that is drawn. Paper: 6 for DiT, 12 for Stable Diffusion."""
    trajectories: Count = 200
    """How many guided trajectories are stored. Paper: one a class, or one a prompt."""
    length: Count = 50
    """Steps of a trajectory. Paper: 1000."""
    start: Fraction = 1.0
    """The time of a trajectory's first state; less than 1 where the model is blind at 1."""
    batch: Count = 64
    """Stored states a batch. Paper: 64."""
    hidden: Count = 256
    """Width of the adapters. Paper: 256."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        if self.w_max < self.w_min:
            raise InputError("w_max", self.w_max, f"must be at least w_min, {self.w_min}")
        self.student.sampler = Ode(50, start=self.start, extra=(1.0,))

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        teacher, student = setting.teachers[0], trainable(setting.teachers[0])
        if not teacher.classes:
            raise InputError("teacher", "", "has no classes; guidance needs a conditional model")
        student.net = OutputAdapters(student, values.get("hidden", cls.hidden), blocks_of(student.net))
        method = cls(student, teacher, **values)
        place = next(teacher.parameters()).device
        y = (torch.arange(method.trajectories) % len(teacher.classes)).to(place)
        w = method.w_min + (method.w_max - method.w_min) * torch.rand(method.trajectories).to(place)
        rows = record(teacher, y, w, method.length, method.start)
        setting.fit(method, data=Recorded(rows, method.batch, int(torch.randint(2**31, ()))))
        return student

    def told(self, w: Tensor) -> Tensor:
        """(B, 1): a scale as the student is told it."""
        return (w / self.w_max)[:, None]

    def loss(self, batch: Guidances, clock: Clock) -> dict[str, Tensor]:
        said = self.student(batch.x, batch.t, batch.y, self.told(batch.w)).eps
        return {"guided": (said - batch.eps).square().mean()}
