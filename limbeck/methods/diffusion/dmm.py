"""DMM: building a versatile image generation model via distillation-based model merging (Song et al., 2025).
https://arxiv.org/abs/2504.12364

Many fine-tunes of one base become one student that is told whom to be: a learnt embedding of the teacher's number
goes through a small network and is added to the embedding of the time,

    emb(t, i) = TimeMLP(t) + MLP(E[i])
    L_pred = E_{i, x0, eps, t} ||eps_S(x_t, t, c, i) - sg(eps_{T_i}(x_t, t, c))||^2
    L_feat = mean_b mean ||h_b^S - sg(h_b^{T_i})||^2
    L      = L_pred + lambda L_feat

Teacher and student see the same noisy sample and the same condition, dropped for both or for neither. Styles are
chosen, or mixed by weights that sum to one. New teachers are added later with the merged student as the teacher of
the old ones (:class:`limbeck.models.denoiser.Told`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, NonNegative, Setting, roles
from limbeck.core.modules import Projector, Taps, freeze
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.methods.diffusion._shared import uniform_times, without_labels
from limbeck.models.denoiser import Denoiser
from limbeck.models.sampling import Ode

CARD = Card(
    key="dmm",
    title="DMM: Building a Versatile Image Generation Model via Distillation-Based Model Merging",
    authors="Tianhui Song, Weixin Feng, Shuai Wang, Xubin Li, Tiezheng Ge, Bo Zheng, Limin Wang",
    year=2025,
    url="https://arxiv.org/abs/2504.12364",
    repo="https://github.com/MCG-NJU/DMM",
    family="diffusion",
    summary="Many fine-tuned teachers become one student that is told which of them to be.",
    modality="diffusion",
    teacher="ensemble",
    data="labelled",
    signal="features",
    notes="The released code drops captions for teacher and student apart, so that about 18 % of the pairs see "
    "different ones; here one draw is shared. It ties a teacher to a process; here the batch is dealt out to the "
    "teachers. Features are compared in the middle block, through a projector where the widths differ; the paper "
    "compares nine maps.",
)


class DMM(Method):
    """Prediction matching of several teachers with an embedding of who is matched."""

    student: Denoiser
    teachers: nn.ModuleList
    _: KW_ONLY
    features: NonNegative = 2e-3
    """Weight lambda of the features' mean squared error; 0 for none. Paper: 2e-3."""
    unlabelled: Fraction = 0.1
    """Share of the conditions that teacher and student both go without. Paper: 0.1."""

    def __post_init__(self) -> None:
        freeze(self.teachers)
        if self.student.extras != len(self.teachers):
            raise InputError(
                "student", self.student.extras, f"numbers are told to the student; it needs {len(self.teachers)}, "
                "one a "
                "teacher: student.told(...)",
            )  # fmt: skip
        self.match = nn.ModuleList()
        if self.features > 0:
            x, t = torch.zeros(2, *self.student.shape), torch.full((2,), 0.5)
            (mine,) = Taps(self.student.middle).shapes(self.student, x.to(next(self.student.parameters())), t)
            for teacher in self.teachers:
                (theirs,) = Taps(teacher.middle).shapes(teacher, x.to(next(teacher.parameters())), t)
                self.match.append(nn.Identity() if mine == theirs else Projector(mine, theirs))
        self.student.sampler = self.style(*self.who(0))

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        given = roles(cls, setting)
        if given["student"].extras == 0:
            given["student"] = given["student"].told(len(setting.teachers))
        method = cls(**given, **values)
        setting.fit(method)
        return method.student

    def who(self, number: int) -> list[float]:
        """The numbers that tell the student to be one teacher."""
        return [float(k == number) for k in range(len(self.teachers))]

    def style(self, *weights: float, steps: int = 50) -> Ode:
        """A sampler in the style of a teacher (one 1 among zeros), or of a mixture.

        Raises:
            InputError: for weights that are not one a teacher, or do not sum to one.
        """
        if len(weights) != len(self.teachers) or abs(sum(weights) - 1) > 1e-4:
            raise InputError("weights", list(weights), f"must be {len(self.teachers)} numbers that sum to 1")
        return Ode(steps, extra=weights)

    def loss(self, batch: Samples, clock: Clock) -> dict[str, Tensor]:
        y = without_labels(batch.y, self.unlabelled)
        parts = list(zip(batch.x.chunk(len(self.teachers)), y.chunk(len(self.teachers)), strict=True))
        terms = [self.matched(i, x, c) for i, (x, c) in enumerate(parts)]
        predicted, seen = (torch.stack(part).mean() for part in zip(*terms, strict=True))
        return {"prediction": predicted, **({"features": self.features * seen} if self.features > 0 else {})}

    def matched(self, number: int, x0: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The two errors of being one teacher, on samples (B, ...) with labels (B,)."""
        teacher, t = self.teachers[number], uniform_times(x0, 0.0, 1.0)
        x_t = teacher.path.noised(x0, torch.randn_like(x0), t)
        told = x0.new_tensor(self.who(number)).expand(len(x0), -1)
        if self.features == 0:
            with torch.no_grad():
                theirs = teacher(x_t, t, y)
            return (self.student(x_t, t, y, told).eps - theirs.eps).square().mean(), x0.new_zeros(())
        with torch.no_grad():
            theirs, (h_t,) = Taps(teacher.middle)(teacher, x_t, t, y)
        mine, (h_s,) = Taps(self.student.middle)(self.student, x_t, t, y, told)
        return (mine.eps - theirs.eps).square().mean(), (self.match[number](h_s) - h_t).square().mean()
