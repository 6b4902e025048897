"""Multi-student distillation: a one-step generator for each part of the conditions (Song et al., 2024).
https://arxiv.org/abs/2410.23274

The conditions are parted into K, C = C_1 + ... + C_K; each part has a student of its own, and a sample is made by one:

    TSM   min_theta E ||mu_theta(x_t, t, c) - mu_teacher(x_t, t, c)||^2, all c      only where students are smaller
    DM    grad = E (mu_fake(x_t, t, c) - mu_real(x_t, t, c)) / mean |x - mu_real|   dx / dtheta,   c in C_k
    ADM   + lambda softplus(-D(x_t))                                                real samples of C_k alone

Teacher score matching gives a student that is too small for the teacher's weights a beginning. Critic and
discriminator are each student's own; matching is DMD2's.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Setting, Update, Weight, roles, value
from limbeck.core.modules import freeze
from limbeck.data.samples import SampleBatches, Samples
from limbeck.errors import InputError
from limbeck.losses.adversarial import nonsaturating
from limbeck.losses.score import follow
from limbeck.methods.diffusion._shared import (
    critic_of,
    denoising,
    discriminator_of,
    noised_logits,
    produce,
    score_gap,
    trainable,
    uniform_times,
)  # fmt: skip
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.routed import ByLabel, routed
from limbeck.models.sampling import FewStep

CARD = Card(
    key="multi_student_distillation",
    title="Multi-student Diffusion Distillation for Better One-step Generators",
    authors="Yanke Song, Jonathan Lorraine, Weili Nie, Karsten Kreis, James Lucas",
    year=2024,
    url="https://arxiv.org/abs/2410.23274",
    family="diffusion",
    summary="Each part of the classes gets a one-step student of its own; a sample is routed to one of them.",
    modality="diffusion",
    teacher="frozen",
    data="labelled",
    signal="features",
    loop="pipeline",
    needs=("input_gradients",),
    fidelity="reconstruction",
    notes="Parts are consecutive classes, as for ImageNet; of prompts' clusters there are none here. Matching and the "
    "discriminator are trained in one stage instead of two, and how long the score matching takes is assumed. The K "
    "students take a run's steps each. The finished student is one model over all of them.",
)


class MultiStudentDistillation(Method):
    """One student's training on its part of the classes; without a part, teacher score matching on all."""

    student: Denoiser
    teacher: Denoiser
    part: Tensor | None = None
    _: KW_ONLY
    students: Count = 4
    """Parts K, at most as many as there are classes. Paper: 4."""
    score_matching: NonNegative = 1.0
    """Steps of teacher score matching, as a multiple of the run's; 0 where students begin as the teacher."""
    ratio: Count = 5
    """Steps of the critic for one of the student. Paper: DMD2's, 5."""
    guidance: NonNegative = 1.0
    """The teacher's classifier-free guidance, off at 1."""
    gan: Weight = 3e-3
    """Weight lambda of the student's adversarial term; 0 leaves the discriminator out. Paper: 3e-3."""
    gan_critic: NonNegative = 1e-2
    """Weight of the discriminator's loss beside the critic's. DMD2: 1e-2."""
    t_min: Fraction = 0.02
    """Earliest time samples are noised to."""
    t_max: Fraction = 0.98
    """Latest time samples are noised to."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        if self.part is not None:
            self.student.sampler = FewStep()
            self.critic = critic_of(self.teacher, self.student)
            self.head = discriminator_of(self.critic)

    def players(self) -> dict[str, list[nn.Parameter]]:
        student = {"student": list(self.student.parameters())}
        if self.part is None:
            return student
        return {**student, "critic": [*self.critic.parameters(), *self.head.parameters()]}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        if self.part is None:
            yield Update({"score_matching": self.score(batch)})
            return
        if clock.step % self.ratio == 0:
            x = produce(self.student, torch.randn_like(batch.x), batch.y)
            terms = {"matching": self.matching(x, batch.y)}
            if (weight := value(self.gan, clock)) > 0:
                terms["gan"] = weight * nonsaturating(self.logits(x, batch.y), real=True).mean()
            yield Update(terms)
        with torch.no_grad():
            x = produce(self.student, torch.randn_like(batch.x), batch.y)
        told = {"denoising": denoising(self.critic, x, uniform_times(x, 0.0, 1.0), batch.y).mean()}
        if value(self.gan, clock) > 0:
            fake, real = self.logits(x, batch.y), self.logits(batch.x, batch.y)
            both = nonsaturating(fake, real=False).mean() + nonsaturating(real, real=True).mean()
            told["discriminator"] = self.gan_critic * both
        yield Update(told, "critic")

    def score(self, batch: Samples) -> Tensor:
        """Teacher score matching, in the clean sample."""
        t = uniform_times(batch.x, self.t_min, self.t_max)
        x_t = self.teacher.path.noised(batch.x, torch.randn_like(batch.x), t)
        with torch.no_grad():
            real = self.teacher(x_t, t, batch.y).x0
        return (self.student(x_t, t, batch.y).x0 - real).square().mean()

    def matching(self, x: Tensor, y: Tensor) -> Tensor:
        """DMD's gradient at x, as a loss."""
        real = Guided(self.teacher, self.guidance)
        return follow(x, score_gap(x, y, real, self.critic, self.t_min, self.t_max)).mean()

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """What the discriminator says of samples noised to a random time."""
        return noised_logits(self.head, self.critic, x, y)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Perhaps a common beginning, then every part's student; all of them as one model."""
        made = roles(cls, setting)
        start, teacher = made["student"], made["teacher"]
        if not teacher.classes:
            raise InputError("teacher", "without classes", "cannot be parted; this method needs a conditional model")
        first = cls(start, teacher, **values)
        if first.score_matching:
            setting.fit(first, name="score", steps=max(round(first.score_matching * setting.steps), 1))
        count = min(first.students, len(teacher.classes))
        owners = torch.arange(len(teacher.classes)) * count // len(teacher.classes)
        students = list[Denoiser]()
        for k in range(count):
            part = (owners == k).nonzero().squeeze(1)
            method = cls(trainable(start), teacher, part, **values)
            setting.fit(method, name=f"student-{k + 1}", data=only(setting.data, part))
            students.append(method.student)
        return routed(students, ByLabel([s.net for s in students], owners))


def only(data: Any, part: Tensor) -> SampleBatches:
    """The batches of these classes alone.

    Raises:
        InputError: for batches of another kind, or when there is no sample of them.
    """
    if not isinstance(data, SampleBatches):
        raise InputError("data", type(data).__name__, "cannot be parted by class; give SampleBatches")
    rows = torch.isin(data.data.y, part).nonzero().squeeze(1)
    if not len(rows):
        raise InputError("data", data.data.name, f"has no sample of the classes {part.tolist()}")
    subset = data.data.subset(rows)
    return SampleBatches(subset, min(data.batch, len(rows)), seed=data.seed, drop_last=data.drop_last)
