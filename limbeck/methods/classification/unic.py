"""UNIC: universal classification models via multi-teacher distillation (Sariyildiz et al., 2024).

https://arxiv.org/abs/2408.05088

    t~_m = (t_m - mu_m) / sigma_m,   mu_m <- (1 - a) mu_m + a mean(t_m),   a from 1 to 0.001, likewise sigma_m
    s_m = sum_b MLP_m,b(x_b)                                               (the ladder of projectors)
    l_m,n = 1/2 (1 - cos(s_m, t~_m)) + 1/2 smoothL1(s_m, t~_m)             (image n, the mean over feature types)
    L = sum c_m,n l_m,n / sum c_m,n,   c_m,n = 1 where m = argmax l_n, else 1 with probability 1 - drop

Several frozen teachers are distilled into one encoder without labels; the projectors are thrown away. What the encoder
is worth is what a linear classifier on its frozen features finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Setting, Weight, roles, value
from limbeck.core.modules import Taps, freeze
from limbeck.core.schedule import Cosine
from limbeck.data.batches import Images
from limbeck.losses.feature import cosine, smooth_l1
from limbeck.methods.classification._features import Ladder, Standardiser
from limbeck.methods.classification._shared import as_map, linear_probe, map_shapes

CARD = Card(
    key="unic",
    title="UNIC: Universal Classification Models via Multi-teacher Distillation",
    authors="Mert Bulent Sariyildiz, Philippe Weinzaepfel, Thomas Lucas, Diane Larlus, Yannis Kalantidis",
    year=2024,
    url="https://arxiv.org/abs/2408.05088",
    repo="https://github.com/naver/unic",
    family="classification",
    summary="One encoder learns the standardised features of several teachers at once, each image mostly from the "
    "teacher it agrees with least.",
    modality="image",
    teacher="ensemble",
    data="labelled",
    signal="features",
    loop="pipeline",
    needs=("features",),
    notes="So that a run returns a classifier, the head is fitted at the end by logistic regression on the training "
    "labels, the paper's linear probe; without labels it stays as it was. The control's head is trained by gradient "
    "descent alone: in short runs part of the gain is the converged head. The penultimate feature stands for the last "
    "class token, the mean over positions for those of earlier stages. Patches are learnt too where both last stages "
    "are maps or tokens, on the teacher's grid. As in the code, a batch is standardised before it enters the "
    "statistics: the first one is not standardised. Projectors have torch's initialisation.",
)


def coefficients(losses: Tensor, drop: float) -> Tensor:
    """Teacher dropping: losses (M, B) to coefficients (M, B) that sum to one over the batch."""
    kept = (torch.rand_like(losses) >= drop).to(losses.dtype)
    kept.scatter_(0, losses.argmax(0, keepdim=True), 1.0)
    return kept / kept.sum()


class UNIC(Method):
    """Standardised features of several teachers through a ladder of projectors, teachers dropped by loss."""

    student: nn.Module
    teachers: nn.ModuleList
    _: KW_ONLY
    drop: Fraction = 0.5
    """Probability that a teacher which is not an image's worst is left out for it."""
    momentum: Weight = Cosine(1.0, 0.001)
    """Weight of the new statistic in the running ones: 0 to 1, or a schedule. A constant 0 never standardises."""
    lam_cos: NonNegative = 0.5
    """Weight of the cosine distance."""
    lam_sl1: NonNegative = 0.5
    """Weight of the smooth L1 distance."""
    hidden: Count = 1
    """Hidden units of a projector, in widths of the student's penultimate layer (paper: 768 of 768)."""
    last_hidden: Count = 4
    """The same for the last projector of a ladder (paper: 3072 of 768)."""

    def __post_init__(self) -> None:
        freeze(self.teachers)
        stages, output = list(self.student.stages), self.student.head + ":in"
        self.taps = Taps(*stages, output)
        self.teacher_taps = [Taps(teacher.stages[-1], teacher.head + ":in") for teacher in self.teachers]
        shapes = map_shapes(self.taps, self.student)
        width = shapes[-1][0]
        self.ladders, self.standardisers = nn.ModuleDict(), nn.ModuleDict()
        for m, (teacher, taps) in enumerate(zip(self.teachers, self.teacher_taps, strict=True)):
            patch, whole = map_shapes(taps, teacher)
            made = {"whole": (shapes[:-2] + shapes[-1:], (whole[0], 1, 1))}
            if min(max(patch[1:]), max(shapes[-2][1:])) > 1:  # both have positions
                made["patch"] = (shapes[:-1], patch)
            for kind, (sources, target) in made.items():
                self.ladders[f"{m}_{kind}"] = Ladder(sources, target, self.hidden * width, self.last_hidden * width)
                self.standardisers[f"{m}_{kind}"] = Standardiser(target[0])
        self.ladders.to(self.student.example)
        self.standardisers.to(self.student.example)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        _, found = self.taps(self.student, batch.x)
        *stages, whole = map(as_map, found)
        student = {"whole": [*stages[:-1], whole], "patch": stages}
        losses = [self.distance(m, student, batch, value(self.momentum, clock)) for m in range(len(self.teachers))]
        per_teacher = torch.stack(losses)
        return {"features": (coefficients(per_teacher.detach(), self.drop) * per_teacher).sum()}

    def distance(self, m: int, student: Mapping[str, list[Tensor]], batch: Images, momentum: float) -> Tensor:
        """The loss of every image to teacher m, (B,); in training its statistics move."""
        with torch.no_grad():
            _, (patch, whole) = self.teacher_taps[m](self.teachers[m], batch.teacher_x)
        losses: list[Tensor] = []
        for kind, feature in (("whole", whole), ("patch", patch)):
            if f"{m}_{kind}" in self.ladders:
                raw, standard = as_map(feature), self.standardisers[f"{m}_{kind}"]
                t, s = standard(raw), self.ladders[f"{m}_{kind}"](student[kind])
                if self.training:
                    standard.update(raw, momentum)
                apart = cosine(s.movedim(1, -1), t.movedim(1, -1)).flatten(1).mean(1)
                losses.append(self.lam_cos * apart + self.lam_sl1 * smooth_l1(s, t))
        return torch.stack(losses).mean(0)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """The encoder without labels, then a linear probe as its head."""
        method = cls(**roles(cls, setting), **values)
        setting.fit(method)
        linear_probe(method.student, setting.data)
        return method.student
