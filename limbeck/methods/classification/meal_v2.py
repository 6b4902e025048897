"""MEAL V2: boosting vanilla ResNet-50 to 80%+ top-1 accuracy on ImageNet without tricks (Shen & Savvides, 2020).
https://arxiv.org/abs/2009.08453

    p_T = (1/M) sum_m softmax(z_m),  p_S = softmax(z_S)
    L_S = - sum_c p_T,c log p_S,c + lambda_D BCE(D(p_S), "teacher")
    L_D = BCE(D(p_S), "student") + BCE(D(p_T), "teacher")

The *probabilities* of the M teachers are averaged; the student starts from supervised weights and sees no labels.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Setting, Update, roles
from limbeck.core.modules import freeze
from limbeck.data.batches import Images
from limbeck.losses.adversarial import nonsaturating
from limbeck.losses.divergence import soft_cross_entropy, soft_log
from limbeck.losses.targets import mean_probabilities
from limbeck.methods.classification._shared import warm_start
from limbeck.models.gan import mlp_discriminator

CARD = Card(
    key="meal_v2",
    title="MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet without Tricks",
    authors="Zhiqiang Shen, Marios Savvides",
    year=2020,
    url="https://arxiv.org/abs/2009.08453",
    repo="https://github.com/szq0214/MEAL-V2",
    family="classification",
    summary="A student that was trained on labels is fine-tuned on the averaged probabilities of several teachers and "
    "must also fool a discriminator.",
    modality="image",
    teacher="ensemble",
    signal="logits",
    loop="alternating",
    needs=("logits",),
    stationary=("soft",),
    fidelity="reconstruction",
    notes="Half of the steps (warm) train the student on labels first. The released code minimises one BCE over both "
    "players, which is not adversarial. Assumed: they alternate; D has one logit, not two; its widths. D reads "
    "probabilities, as in the authors' later script; against logits, as in their first, it ruins the student.",
)


class MEALV2(Method):
    """Averaged soft labels of an ensemble and an adversary on the outputs, from supervised weights."""

    student: nn.Module
    teachers: nn.ModuleList
    _: KW_ONLY
    adversarial: NonNegative = 1.0
    """lambda_D, weight of the adversarial term in the student's loss; 0 for none."""
    hidden: Count = 64
    """Width of the discriminator's two hidden layers."""
    warm: Fraction = 0.5
    """Share of a run's steps that trains the student on labels first; 0 for a student that is trained already."""

    def __post_init__(self) -> None:
        freeze(self.teachers)
        self.discriminator = mlp_discriminator(self.student.num_classes, self.hidden).to(self.student.example.device)

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {name: list(getattr(self, name).parameters()) for name in ("student", "discriminator")}

    def updates(self, batch: Images, clock: Clock) -> Generator[Update, bool, None]:
        with torch.no_grad():
            p_T = mean_probabilities([teacher(batch.teacher_x) for teacher in self.teachers])
        log_p, D = soft_log(self.student(batch.x)), self.discriminator
        terms = {"soft": soft_cross_entropy(p_T, log_p).mean()}
        if self.adversarial:
            terms["adversarial"] = self.adversarial * nonsaturating(D(log_p.exp()), real=True).mean()
        yield Update(terms)
        if self.adversarial:
            real, fake = nonsaturating(D(p_T), real=True), nonsaturating(D(log_p.detach().exp()), real=False)
            yield Update({"teacher": real.mean(), "student": fake.mean()}, "discriminator")

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """A supervised fit of the student, then the method; together as many steps as the run has."""
        method = cls(**roles(cls, setting), **values)
        setting.fit(method, steps=warm_start(setting, method.student, method.warm))
        return method.student
