"""LoRA-enhanced distillation on guided diffusion models (Golnari, 2023). https://arxiv.org/abs/2312.06899

Classifier-free guidance calls a network twice a step. Here low-rank adapters on the network itself learn what both
calls say together, so that one call does it, and teacher and student share one set of weights:

    eps_T = eps(x_t, t, 0) + w (eps(x_t, t, c) - eps(x_t, t, 0))              adapters off, no gradient
    eps_S = eps_{W + (alpha / r) B A}(x_t, t, c)
    L     = E ||eps_S - eps_T||^2                                             only A and B learn, B = 0 at first

The finished student has the adapters merged into a copy of the weights; guide it no further. Optionally w is drawn
from a range and told to the student (Meng et al., 2023, https://arxiv.org/abs/2210.03142).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, replace
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, NonNegative, Positive, Setting
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.methods.diffusion._shared import uniform_times
from limbeck.models.denoiser import Denoiser, guide
from limbeck.models.low_rank import adapted, merged

CARD = Card(
    key="lora_guidance_distillation",
    title="LoRA-Enhanced Distillation on Guided Diffusion Models",
    authors="Pareesa Ameneh Golnari",
    year=2023,
    url="https://arxiv.org/abs/2312.06899",
    family="diffusion",
    summary="Low-rank adapters learn what two guided calls say, so that one call a step is enough.",
    modality="diffusion",
    teacher="frozen",
    data="labelled",
    signal="features",
    fidelity="reconstruction",
    notes="The loss is the standard one of guidance distillation; scale, rank and learning rate are assumed, and so "
    "is the told scale. Adapters go on every linear and convolution layer; the paper's go on the attention's "
    "projections.",
)


class LoRAGuidanceDistillation(Method):
    """One call with adapters in place of two without."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    guidance: Positive = 7.5
    """The scale w that is learnt, off at 1; the lower end of a range where `guidance_max` is larger. Assumed: 7.5."""
    guidance_max: NonNegative = 0.0
    """The upper end of the range of scales that are drawn and told to the student; 0 for one fixed scale."""
    rank: Count = 16
    """Rank r of the adapters. Assumed: 4 to 64."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        if not self.teacher.classes:
            raise InputError("guidance", self.guidance, "needs a conditional teacher; this one has no classes")
        if self.student.extras:
            self.student.sampler = replace(self.student.sampler, extra=(1.0,))

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        teacher = setting.teachers[0]
        told = teacher.told(1) if values.get("guidance_max", 0.0) else teacher
        method = cls(adapted(told, values.get("rank", cls.rank)), teacher, **values)
        setting.fit(method)
        return merged(method.student)

    def loss(self, batch: Samples, clock: Clock) -> dict[str, Tensor]:
        t = uniform_times(batch.x, 0.0, 1.0)
        x_t = self.teacher.path.noised(batch.x, torch.randn_like(batch.x), t)
        high = max(self.guidance_max, self.guidance)
        w = self.guidance + (high - self.guidance) * torch.rand_like(t)
        with torch.no_grad():
            wanted = guide(self.teacher, x_t, t, batch.y, w).eps
        said = self.student(x_t, t, batch.y, (w / high)[:, None] if self.student.extras else None).eps
        return {"guided": (said - wanted).square().mean()}
