"""Contrastive representation distillation via multi-scale feature decoupling (Wang, Chen & Wang, 2025).

https://arxiv.org/abs/2502.05835

    L_sample = - mean_i w_i log exp(u_i . v_i / t) / sum_{j in N(i) or j = i} exp(u_i . v_j / t)
    L_feat   = - mean_c log exp(U_c . V_c / t) / sum_d exp(U_c . V_d / t)
    L        = CE(y, z_S) + a tau^2 KL(p_T || p_S) + b sum_scales (L_sample + L_feat)

u_i and v_i are the unit vectors of window i of student and teacher, average-pooled from the last stage; U_c and V_c are
channel c over all windows of the batch, as unit vectors. N(i) are the windows of other images of the same category: the
teacher's head, given one window alone, either agrees with what it says of the whole image or does not.
"""

from __future__ import annotations

from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, NonNegative, Positive, Weight, value
from limbeck.core.modules import freeze
from limbeck.data.batches import Images
from limbeck.errors import InputError
from limbeck.losses.contrastive import channel_contrast, sample_contrast
from limbeck.losses.divergence import distil_kl
from limbeck.methods.classification._shared import as_map, map_shapes, tap

CARD = Card(
    key="msdcrd",
    title="Contrastive Representation Distillation via Multi-Scale Feature Decoupling",
    authors="Cuipeng Wang, Tieyuan Chen, Haipeng Wang",
    year=2025,
    url="https://arxiv.org/abs/2502.05835",
    family="classification",
    summary="Contrasts windows of several sizes of the last feature map, and its channels, between student and teacher "
    "within one batch.",
    modality="image",
    teacher="frozen",
    signal="features",
    needs=("features", "logits"),
    vanishes=("kd",),
    fidelity="reconstruction",
    notes="Taken from summaries: windows of several sizes, categories by the teacher's head, the two contrasts. "
    "Assumed: kernels that halve from the full map with half a kernel as stride, category = agreement with the global "
    "prediction, its weight, negatives from other images alone, t, a and b. Vectors have the global scale only. Memory "
    "grows with the square of the windows of a batch, scale by scale.",
)


def kernels(size: tuple[int, int], scales: int) -> list[tuple[int, int]]:
    """Window sizes of a map (H, W), large to small: the full map first, halved each time, none twice."""
    return list(dict.fromkeys((max(size[0] >> k, 1), max(size[1] >> k, 1)) for k in range(scales)))


def windows(feature: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Averages over sliding windows, (B, C, H, W) -> (B * R, C), the R windows of an image next to each other."""
    stride = max(kernel[0] // 2, 1), max(kernel[1] // 2, 1)
    return F.avg_pool2d(feature, kernel, stride).flatten(2).mT.flatten(0, 1)


class MSDCRD(Method):
    """Contrast of local samples and of channels at several scales, beside labels and soft labels."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    scales: Count = 3
    """Number of window sizes: the full map, then half of it and so on; 1 for the global feature alone."""
    t: Positive = 0.1
    """Temperature of both contrasts."""
    contrast: Weight = 1.0
    """b, weight of the contrasts."""
    complementary: NonNegative = 0.5
    """Weight of windows of which the teacher's head says another class than of the whole image; 1 for the others."""
    kd: NonNegative = 1.0
    """a, weight of the soft labels."""
    tau: Positive = 4.0
    """Temperature of the soft labels."""
    stage: str = ""
    """The teacher's layer, as wide as its head's input; empty for its last stage."""
    guided: str = ""
    """The student's layer; empty for its last stage."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.stage_tap = tap(self.teacher, self.stage or self.teacher.stages[-1], "stage")
        self.guided_tap = tap(self.student, self.guided or self.student.stages[-1], "guided")
        [(c, h, w)], [(C, H, W)] = map_shapes(self.guided_tap, self.student), map_shapes(self.stage_tap, self.teacher)
        if (wide := self.teacher.get_submodule(self.teacher.head).in_features) != C:
            raise InputError("stage", self.stage_tap.paths[0], f"has {C} channels; name a layer of {wide}, as the head")
        self.size = min(h, H), min(w, W)  # the finest grid that both have
        self.projector = nn.Conv2d(c, C, 1).to(self.student.example.device)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            t, [target] = self.stage_tap(self.teacher, batch.teacher_x)
            target = F.adaptive_avg_pool2d(as_map(target), self.size)
            head = self.teacher.get_submodule(self.teacher.head)
            whole = head(target.mean((2, 3))).argmax(1)
        s, [guided] = self.guided_tap(self.student, batch.x)
        guided = self.projector(F.adaptive_avg_pool2d(as_map(guided), self.size))
        sample, channel = s.new_zeros(()), s.new_zeros(())
        for kernel in kernels(self.size, self.scales):
            u, v = windows(guided, kernel), windows(target, kernel)
            image = torch.arange(len(s), device=s.device).repeat_interleave(len(u) // len(s))
            agrees = head(v).argmax(1) == whole[image]
            weight = torch.where(agrees, 1.0, self.complementary)
            sample = sample + (weight * sample_contrast(u, v, image, agrees, self.t)).mean()
            channel = channel + channel_contrast(u, v, self.t).mean()
        b = value(self.contrast, clock)
        return {
            "ce": F.cross_entropy(s, batch.y),
            "kd": self.kd * distil_kl(s, t, self.tau).mean(),
            "sample": b * sample,
            "channel": b * channel,
        }
