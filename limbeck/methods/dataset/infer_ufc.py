"""INFER: breaking class barriers: efficient dataset distillation via inter-class feature compensator (Zhang et al.,
2024). https://arxiv.org/abs/2408.06927

    u_bm = argmin_u sum_c CE(f_m(x_cb + u), c) + r_bn sum_l k_l (||mu_l - mu_l^BN||_2 + ||sigma_l^2 - var_l^BN||_2)
    S    = {x_cb} and {x_cb + u_bm},         c one of K classes, b one of B bases a class, f_m one of M trained networks
    q(x) = 1/M sum_m f_m(x)                                                            one label an image, as logits

The images of a class are no longer optimised; what is, is a pattern that all classes share (a universal feature
compensator), which fits one network's boundaries. B bases a class and B M patterns cost as much as B (1 + M / K) images
a class and decode to B (1 + M).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Setting, roles
from limbeck.core.modules import freeze
from limbeck.data.batches import Images
from limbeck.data.crops import rolled
from limbeck.data.images import ImageSet
from limbeck.errors import InputError
from limbeck.methods.dataset._recover import recovered
from limbeck.methods.dataset._shared import begun, real_images
from limbeck.models.batch_norm import batch_norms
from limbeck.models.synthetic import Shared, SyntheticSet
from limbeck.models.use import StaticLogits, TeacherLabels

CARD = Card(
    key="infer_ufc",
    title="Breaking Class Barriers: Efficient Dataset Distillation via Inter-Class Feature Compensator",
    authors="Xin Zhang, Jiawei Du, Ping Liu, Joey Tianyi Zhou",
    year=2024,
    url="https://arxiv.org/abs/2408.06927",
    repo="https://github.com/zhangxin-xd/UFC",
    family="dataset",
    summary="Real images, and patterns shared by all classes that are added to them: many images for the price of few.",
    modality="dataset",
    teacher="ensemble",
    signal="logits",
    loop="pipeline",
    needs=("logits", "weights", "input_gradients"),
    notes="The teachers must have batch norm; the paper's are four architectures. As in the released code a pattern is "
    "not bounded while it is learnt, its images are cut off when they are used. The optimiser is Adam (0.5, 0.9) "
    "with a "
    "cosine from 0.25 in normalised pixels, some 0.06 of pixels in [0, 1], for 1000 to 2000 steps; the released code's "
    "r_bn is 0.05 for CIFAR. The bases are random real images; the code reads them from files. The set carries the "
    "teachers, so that a control's images are labelled in the same way.",
)


class INFER(Method):
    """Patterns that make images of every class right at once.

    Args:
        real: the images to choose the bases from.
        teachers: M networks that were trained on them, with batch norm.
    """

    real: ImageSet
    teachers: nn.ModuleList
    _: KW_ONLY
    per_class: Count = 10
    """Images a class that the set may cost, patterns included."""
    r_bn: NonNegative = 0.01
    """Weight of the statistics."""
    first: NonNegative = 10.0
    """k_1: weight of the first batch norm among them; the others have 1."""
    jitter: Fraction = 0.125
    """Largest roll, in heights of the image."""
    labels: Literal["static", "dynamic"] = "static"
    """One label an image, stored and mixed; or the teachers' labels of every crop, mixed images and all."""
    tau: Positive = 30.0
    """Temperature of the labels."""
    augment: str = "crop+flip"
    """Of images with a static label, when students are trained."""
    lower: Positive = 0.08
    """Least share of an image that a crop shows, with dynamic labels."""

    def __post_init__(self) -> None:
        for teacher in self.teachers:
            batch_norms(freeze(teacher))
        classes, patterns = len(self.real.classes), len(self.teachers)
        bases = int(self.per_class / (patterns / classes + 1))
        if not bases:
            least = math.ceil(patterns / classes + 1)
            raise InputError("per_class", self.per_class, f"pays for no base with {patterns} patterns; take {least}")
        chosen = begun(self.real, bases)
        use = (
            StaticLogits(self.teachers, augment=self.augment, tau=self.tau)
            if self.labels == "static"
            else TeacherLabels(self.teachers, lower=self.lower, mix="mixup", tau=self.tau)
        )
        images = Shared(chosen().detach().unflatten(0, (classes, bases)), patterns)
        self.student: SyntheticSet = SyntheticSet(images, chosen.y, chosen.classes, use=use, name=chosen.name)

    def loss(self, batch: Images, clock: Clock) -> Mapping[str, Tensor]:
        images = self.student.images
        assert isinstance(images, Shared)
        classes, bases = images.base.shape[:2]
        y = torch.arange(classes, device=images.base.device).repeat(bases)
        ce, bn = list[Tensor](), list[Tensor]()
        for u, teacher in zip(images.patterns, self.teachers, strict=True):
            x = (images.base + u).transpose(0, 1).flatten(0, 1)  # one image of every class, index after index
            seen = rolled(x, round(self.jitter * x.shape[2]), groups=bases)
            found = recovered(teacher, seen, y, bases, self.first)  # type: ignore[arg-type]
            ce.append(found.ce.mean())
            bn.append(found.bn.mean())
        return {"ce": torch.stack(ce).mean(), "bn": self.r_bn * torch.stack(bn).mean()}

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> SyntheticSet:
        method = cls(real_images(setting), **roles(cls, setting), **values)
        setting.fit(method)
        made = method.student
        if not isinstance(made.use, StaticLogits):
            return made
        q = made.use.label(made().detach().clamp(0, 1))
        return SyntheticSet(made.images, made.stored_y, made.classes, targets=q, use=made.use, name=made.name)
