"""FitNets: hints for thin deep nets (Romero et al., 2015). https://arxiv.org/abs/1412.6550

    stage 1   L_HT = 1/2 || u_h(x) - r(v_g(x)) ||^2                                  (equation 3)
    stage 2   L_KD = H(y, P_S) + lambda H(P_T^tau, P_S^tau),  lambda from 4 to 1     (equation 2)

u_h is the teacher's hint, v_g the student's guided layer, r a regressor that is thrown away after stage 1, where only
the layers up to the guided one learn. There is no tau^2 in equation 2.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, NonNegative, Positive, Weight, value
from limbeck.core.modules import freeze
from limbeck.core.schedule import Linear
from limbeck.data.batches import Images
from limbeck.losses.divergence import cross_entropy, soft_log
from limbeck.losses.feature import half_squared, mse
from limbeck.methods.classification._features import regressor
from limbeck.methods.classification._shared import as_map, map_shapes, middle, tap

CARD = Card(
    key="fitnets",
    title="FitNets: Hints for Thin Deep Nets",
    authors="Adriana Romero, Nicolas Ballas, Samira Ebrahimi Kahou, Antoine Chassang, Carlo Gatta, Yoshua Bengio",
    year=2015,
    url="https://arxiv.org/abs/1412.6550",
    repo="https://github.com/adri-romsor/FitNets",
    family="classification",
    summary="A thin deep student learns to predict a middle layer of the teacher, then its outputs and the labels.",
    modality="image",
    teacher="frozen",
    signal="features",
    needs=("features", "logits"),
    stationary=("kd",),
    notes="Assumed: stage 1 takes half of the steps; the paper's ends when the validation loss stops falling. The "
    "paper sums the hint loss, its code averages it over positions, re-implementations average everything.",
)


class FitNets(Method):
    """Hint training of the lower half, then annealed distillation of the whole."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    variant: Literal["two_stage", "one_stage"] = "two_stage"
    """two_stage: the paper's; one_stage: cross-entropy plus the weighted hint loss, as re-implemented."""
    hint_share: Fraction = 0.5
    """Share of the steps that stage 1 takes (two_stage)."""
    reduction: Literal["auto", "sum", "mean"] = "auto"
    """Hint loss over C, H and W: half the sum (the paper), or the mean. auto: sum in two_stage, mean in one_stage."""
    hint_weight: NonNegative = 100.0
    """Weight of the hint loss in one_stage; 100 belongs to the mean."""
    tau: Positive = 3.0
    """Temperature of stage 2."""
    kd: Weight = Linear(4.0, 1.0)
    """lambda, a number or a schedule over stage 2."""
    hint: str = ""
    """The teacher's layer; empty for the middle one of its stages."""
    guided: str = ""
    """The student's layer; empty for the middle one of its stages."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.hint_tap = tap(self.teacher, self.hint or middle(self.teacher), "hint")
        self.guided_tap = tap(self.student, self.guided or middle(self.student), "guided")
        [source], [target] = map_shapes(self.guided_tap, self.student), map_shapes(self.hint_tap, self.teacher)
        self.regressor = regressor(source, target).to(self.student.example.device)
        summed = self.reduction == "sum" or (self.reduction == "auto" and self.variant == "two_stage")
        self.distance = half_squared if summed else mse

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            t, [hint] = self.hint_tap(self.teacher, batch.teacher_x)
        s, [guided] = self.guided_tap(self.student, batch.x)
        one, first = self.variant == "one_stage", round(self.hint_share * clock.steps)
        if one or clock.step < first:
            apart = self.distance(self.regressor(as_map(guided)), as_map(hint)).mean()
            return {"ce": F.cross_entropy(s, batch.y), "hint": self.hint_weight * apart} if one else {"hint": apart}
        weight = value(self.kd, Clock(clock.step - first, clock.steps - first))
        kd = cross_entropy(soft_log(t, self.tau), soft_log(s, self.tau)).mean()
        return {"ce": F.cross_entropy(s, batch.y), "kd": weight * kd}
