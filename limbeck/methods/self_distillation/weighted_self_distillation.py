"""Even your teacher needs guidance: ground-truth targets dampen regularization imposed by self-distillation
(Borup & Andersen, 2021). https://arxiv.org/abs/2102.13088

    f_t minimises  (1 - w_t) ||f(X) - y||^2 + w_t ||f(X) - f_{t-1}(X)||^2 + lambda ||f||^2

so that with kernel ridge, S = K (K + lambda I)^-1,  y_t = S ((1 - w_t) y + w_t y_{t-1}): for a constant w < 1 the limit
is ridge with lambda / (1 - w). Predictions are affine in w, so two fits give the best one in closed form:

    1 - w* = <y_val - g, f_1 - g> / ||f_1 - g||^2      (f_1: fitted to labels; g: fitted to the predecessor alone)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, Setting
from limbeck.data.batches import Images
from limbeck.losses.targets import blend, one_hot
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


def ridge_generations(K: Tensor, y: Tensor, lam: float, weights: Sequence[float]) -> list[Tensor]:
    """Kernel ridge through the generations, exactly: K (N, N), y (N, ...) -> in-sample predictions y_1, y_2, ...

    Args:
        K: the Gram matrix.
        y: targets.
        lam: the ridge lambda > 0 of ``||f(X) - y||^2 + lambda ||f||^2``.
        weights: the predecessor's weight in every generation after the first.
    """
    S = torch.linalg.solve(K + lam * torch.eye(len(K), dtype=K.dtype), K)  # K and its resolvent commute
    fitted = [S @ y]
    for w in weights:
        fitted.append(S @ ((1 - w) * y + w * fitted[-1]))
    return fitted


def best_weight(y: Tensor, first: Tensor, pure: Tensor) -> float:
    """The predecessor's weight w that minimises ``||y - (1 - w) first - w pure||^2``, clipped to [0, 1].

    Args:
        y: held-out targets, any shape.
        first: predictions there of the fit to labels.
        pure: predictions there of the fit to the predecessor alone.
    """
    apart = first - pure
    labels = ((y - pure) * apart).sum() / apart.square().sum().clamp_min(torch.finfo(apart.dtype).tiny)
    return float(1 - labels.clamp(0, 1))


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
        plan = cls(nn.Identity(), **values)
        train = setting.data.dataset
        if plan.w is None:
            train, held = train.split(plan.held_out, seed=0)
            truth = one_hot(held.labels, len(held.classes))
            first_held: Tensor | None = None
        data = setting.data.with_data(train)

        def fitted(name: str, outputs: Tensor | None, w: float) -> nn.Module:
            method = cls(setting.student(), outputs, **{**values, "w": w})
            setting.fit(method, name=name, data=data.with_data(train))
            return method.student

        student, outputs = fitted("generation-0", None, 0.0), None
        for number in range(1, plan.generations + 1):
            outputs, w = predictions(student, data), plan.w
            if w is None:
                if first_held is None:
                    first_held = predictions(student, data.with_data(held))
                pure = fitted(f"generation-{number}-pure", outputs, 1.0)
                w = best_weight(truth, first_held, predictions(pure, data.with_data(held)))
            student = fitted(f"generation-{number}", outputs, w)
        return student
