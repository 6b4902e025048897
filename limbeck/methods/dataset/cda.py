"""CDA: dataset distillation via curriculum data synthesis in large data era (Yin and Shen, 2023).
https://arxiv.org/abs/2311.18838

    L(x)     = CE(f(A_t(x)), y) + r_bn sum_l k_l (||mu_l - mu_l^BN||_2 + ||sigma_l^2 - var_l^BN||_2)      as in SRe2L
    A_t      crops an area ~ U[lower(t), b_u]
    lower(t) = b_l + (b_u - b_l) (1 + cos(pi min(t / (m T), 1))) / 2               from b_u = 1 down to b_l = 0.08

Images are recovered from a trained network that sees all of them at first, and ever smaller parts later: outlines come
before details. Students learn from the network's labels of the very crops that they see.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Setting, Update, roles
from limbeck.core.modules import freeze
from limbeck.data.batches import Images
from limbeck.data.images import ImageSet
from limbeck.methods.dataset._recover import clip, grouped, recovered, shaken
from limbeck.methods.dataset._shared import begun, real_images
from limbeck.models.batch_norm import batch_norms
from limbeck.models.classifier import Classifier
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.use import TeacherLabels

CARD = Card(
    key="cda",
    title="Dataset Distillation via Curriculum Data Synthesis in Large Data Era",
    authors="Zeyuan Yin, Zhiqiang Shen",
    year=2023,
    url="https://arxiv.org/abs/2311.18838",
    repo="https://github.com/VILA-Lab/SRe2L",
    family="dataset",
    summary="Images recovered from a trained network's batch norms, first as a whole, then in ever smaller parts.",
    modality="dataset",
    teacher="frozen",
    signal="logits",
    loop="pipeline",
    needs=("logits", "weights", "input_gradients"),
    notes="The teacher must have batch norm. With milestone=0 it is SRe2L (https://arxiv.org/abs/2306.13092). The "
    "paper's optimiser is Adam (0.5, 0.9) with a cosine from 0.25 (ImageNet) or 0.4 (Tiny-ImageNet) in normalised "
    "pixels, some 0.06 and 0.09 of pixels in [0, 1], for 4000 steps; r_bn is 0.01 on ImageNet and 0.05 on "
    "Tiny-ImageNet. Noise is uniform here, the paper's is normal and cut off. All images are in one step: memory grows "
    "with per_class. The labels of every crop are the teacher's, which the set carries, instead of stored ones.",
)


class CDA(Method):
    """Images that a trained network knows, whole at first, then part by part.

    Args:
        real: the images to stand for; their number and shape, and where ``how`` is real, the first images.
        teacher: trained on them, with batch norm.
    """

    real: ImageSet
    teacher: Classifier
    _: KW_ONLY
    per_class: Count = 10
    """Synthetic images a class."""
    lower: Positive = 0.08
    """b_l: least share of an image that a crop shows, at last, and when students are trained."""
    upper: Positive = 1.0
    """b_u: its largest."""
    milestone: Fraction = 1.0
    """m: fraction of the steps after which the least share is b_l; 0 for b_l throughout."""
    schedule: Literal["cosine", "linear", "step"] = "cosine"
    """How it gets there; step keeps b_u until then."""
    reverse: bool = False
    """From small parts to the whole: the paper's control."""
    r_bn: NonNegative = 0.01
    """Weight of the statistics."""
    first: NonNegative = 10.0
    """k_1: weight of the first batch norm among them; the others have 1."""
    flip: bool = True
    """Turn half of the crops around; not for digits and letters."""
    jitter: Fraction = 0.125
    """Largest roll, in heights of the image."""
    how: Literal["noise", "real"] = "noise"
    """What the images are at first."""
    tau: Positive = 20.0
    """Temperature of the labels."""
    mix: Literal["cutmix", "mixup", "none"] = "cutmix"
    """How two images are mixed when students are trained."""

    def __post_init__(self) -> None:
        batch_norms(freeze(self.teacher))
        use = TeacherLabels(nn.ModuleList([self.teacher]), lower=self.lower, flip=self.flip, mix=self.mix, tau=self.tau)
        self.student: SyntheticSet = begun(self.real, self.per_class, how=self.how, use=use)

    def bound(self, clock: Clock) -> float:
        """lower(t)."""
        done = min(clock.step / (self.milestone * clock.steps), 1.0) if self.milestone else 1.0
        match self.schedule:
            case "cosine":
                left = (1 + math.cos(math.pi * done)) / 2
            case "linear":
                left = 1 - done
            case "step":
                left = float(done < 1)
        return self.lower + (self.upper - self.lower) * (1 - left if self.reverse else left)

    def loss(self, batch: Images, clock: Clock) -> Mapping[str, Tensor]:
        x, y, groups = grouped(self.student)
        seen = shaken(x, groups, self.bound(clock), upper=self.upper, flip=self.flip, jitter=self.jitter)
        found = recovered(self.teacher, seen, y, groups, self.first)
        return {"ce": found.ce.mean(), "bn": self.r_bn * found.bn.mean()}

    def updates(self, batch: Images, clock: Clock) -> Generator[Update, bool, None]:
        yield Update(self.loss(batch, clock))
        clip(self.student)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> SyntheticSet:
        method = cls(real_images(setting), **roles(cls, setting), **values)
        setting.fit(method)
        return method.student
