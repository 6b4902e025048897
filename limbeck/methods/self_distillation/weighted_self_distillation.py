"""Even your teacher needs guidance: ground-truth targets dampen regularization imposed by self-distillation
(Borup & Andersen, 2021). https://arxiv.org/abs/2102.13088

    f_t minimises  (1 - w_t) ||f(X) - y||^2 + w_t ||f(X) - f_{t-1}(X)||^2 + lambda ||f||^2

so that with kernel ridge, S = K (K + lambda I)^-1,  y_t = S ((1 - w_t) y + w_t y_{t-1}): for a constant w < 1 the limit
is ridge with lambda / (1 - w). Predictions are affine in w, so two fits give the best one in closed form:

    1 - w* = <y_val - g, f_1 - g> / ||f_1 - g||^2      (f_1: fitted to labels; g: fitted to the predecessor alone)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any

from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, Setting
from limbeck.data.batches import Images
from limbeck.losses.targets import blend, one_hot
from limbeck.methods.self_distillation._ridge import best_weight
from limbeck.methods.self_distillation._shared import predictions

CARD = Card(
    key="weighted_self_distillation",
    title="Even your Teacher Needs Guidance: Ground-Truth Targets Dampen Regularization Imposed by Self-Distillation",
    authors="Kenneth Borup, Lars Nørvang Andersen",
    year=2021,
    url="https://arxiv.org/abs/2102.13088",
    family="self_distillation",
    summary="Each generation fits a blend of labels and its predecessor's outputs; the blend is found in closed form.",
    modality="image",
    teacher="previous",
    signal="probabilities",
    loop="generations",
    fidelity="reconstruction",
    notes="Networks are fitted by squared error on raw outputs, the loss of the paper's theory; the settings of its "
    "deep experiments were assumed. The paper's alpha weights the labels; limbeck's w the predecessor, w = 1 - alpha. "
    "With the weight in closed form every generation costs two trainings, and a tenth of the data is held out for it.",
)


class WeightedSelfDistillation(Method):
    """One generation: squared error to labels and to the predecessor's stored outputs."""

    student: nn.Module
    outputs: Tensor | None = None  # the predecessor's (N, K) on the training set; none in the first generation
    _: KW_ONLY
    w: Fraction | None = None
    """The predecessor's weight; left out, it is found on held-out samples in every generation."""
    generations: Count = 1
    """Generations after the first network. Gains saturate at 1 to 3."""
    held_out: Fraction = 0.1
    """Share of the training set kept for finding the weight."""

    def loss(self, batch: Images, clock: Clock) -> Tensor:
        z = self.student(batch.x)
        target = one_hot(batch.y, z.shape[1])
        if self.outputs is not None:
            target = blend(target, self.outputs[batch.index], self.w or 0.0)
        return (z - target).square().sum(1).mean()

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """All generations, each with the given weight or with the best one on held-out samples."""
        plan, train = cls(nn.Identity(), **values), setting.data.dataset
        if plan.w is None:
            train, rest = train.split(plan.held_out, seed=0)
            truth, held = one_hot(rest.labels, len(rest.classes)), setting.data.with_data(rest)
        data = setting.data.with_data(train)

        def fitted(name: str, outputs: Tensor | None, w: float) -> nn.Module:
            method = cls(setting.student(), outputs, **{**values, "w": w})
            setting.fit(method, name=name, data=data.with_data(train))
            return method.student

        student = fitted("generation-0", None, 0.0)
        if plan.w is None:
            first = predictions(student, held)
        for number in range(1, plan.generations + 1):
            outputs, w = predictions(student, data), plan.w
            if w is None:
                pure = fitted(f"generation-{number}-pure", outputs, 1.0)
                w = best_weight(truth, first, predictions(pure, held))
            student = fitted(f"generation-{number}", outputs, w)
        return student
