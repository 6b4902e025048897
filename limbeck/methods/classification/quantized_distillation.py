"""Model compression via distillation and quantization (Polino, Pascanu & Alistarh, 2018).
https://arxiv.org/abs/1802.05668

    sc(v) = (v - beta) / (max v - min v),  beta = min v,  for every bucket of 256 weights
    Q(v) = sc^-1(round(s sc(v)) / s),  s = 2^b - 1                              (uniform points)
    L(w) = (1 - a) CE(y, f_w(x)) + a tau^2 KL(softmax(z_T / tau) || softmax(z_S / tau))

    quantized:       w <- w - lr dL/dw_q at w_q = Q(w)                          (w stays in full precision)
    differentiable:  w is fixed; its points p learn: dL/dp_j = sum over the weights nearest to p_j of alpha dL/dw_q
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, MakeOptimizer, Method, Positive, Setting, roles
from limbeck.core.modules import freeze
from limbeck.data.batches import Images
from limbeck.errors import InputError
from limbeck.losses.divergence import distil_kl
from limbeck.models.classifier import Classifier
from limbeck.models.quantizer import Points, Uniform, quantize, settle

CARD = Card(
    key="quantized_distillation",
    title="Model compression via distillation and quantization",
    authors="Antonio Polino, Razvan Pascanu, Dan Alistarh",
    year=2018,
    url="https://arxiv.org/abs/1802.05668",
    repo="https://github.com/antspy/quantized_distillation",
    family="classification",
    summary="A student whose weights take only a few values learns from a full-precision teacher.",
    modality="image",
    teacher="frozen",
    signal="logits",
    needs=("logits",),
    notes="Vectors (biases, norms) are not quantised. The released code quantises them too, leaves the first and the "
    "last *tensor* alone (the head's bias, not the head), divides its soft term by the number of classes, and learns "
    "points from the student before quantisation instead of from the teacher. Stochastic rounding and bits per layer "
    "are left out. The differentiable variant costs two trainings; at the run's own rate it lost what it had learnt.",
)


class QuantizedDistillation(Method):
    """Softened teacher probabilities and labels, blended, for a student with quantised weights."""

    student: Classifier
    teacher: nn.Module
    _: KW_ONLY
    variant: Literal["quantized", "differentiable", "post_training"] = "quantized"
    """Train through quantisation; train, then learn where the points lie; or train, then quantise (the baseline)."""
    bits: Annotated[int, Interval(ge=1, le=16)] = 4
    """b: a weight takes 2^b values in its bucket."""
    bucket: Count = 256
    """Weights that share a scale."""
    ends: Literal["quantized", "full"] = "quantized"
    """What becomes of the first and the last layer: often they are left in full precision."""
    alpha: Fraction = 0.7
    """a, the share of the soft term."""
    tau: Positive = 2.0
    """Temperature of both distributions."""
    rate: Positive = 0.1
    """What the learning rate is multiplied by while points are learnt: each moves thousands of weights at once."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        if self.variant == "quantized":
            self.quantize(lambda w: Uniform(self.bits, self.bucket))
        elif self.variant == "differentiable":
            self.student.requires_grad_(False)
            self.quantize(lambda w: Points(w, self.bits, self.bucket))

    def quantize(self, quantizer: Callable[[Tensor], nn.Module]) -> None:
        """Refuses a student that has no weight to quantise."""
        if not quantize(self.student, quantizer, ends=self.ends == "quantized"):
            raise InputError("ends", self.ends, "leaves this student no weight to quantise; use 'quantized'")

    def optimizers(self, make: MakeOptimizer) -> dict[str, torch.optim.Optimizer]:
        """The run's, slower where points are learnt."""
        made = super().optimizers(make)
        for group in made["student"].param_groups if self.variant == "differentiable" else ():
            group["lr"] *= self.rate
        return made

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            t = self.teacher(batch.teacher_x)
        s = self.student(batch.x)
        kd = self.alpha * distil_kl(s, t, self.tau).mean()
        return {"ce": (1 - self.alpha) * F.cross_entropy(s, batch.y), "kd": kd}

    def plain(self) -> Classifier:
        """The student with quantised weights in place of what they were made from."""
        if self.variant == "post_training":
            self.quantize(lambda w: Uniform(self.bits, self.bucket))
        settle(self.student)
        return self.student.requires_grad_(True)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Train, in full precision first where the points are learnt, and return the quantised student."""
        given = roles(cls, setting)
        if values.get("variant") == "differentiable":
            setting.fit(cls(**given, **{**values, "variant": "post_training"}), name="full-precision")
        method = cls(**given, **values)
        setting.fit(method)
        return method.plain()
