"""HeLlO: heavy labels out! Dataset distillation with label space lightening (Yu et al., 2024).
https://arxiv.org/abs/2408.08201

    p(x) = softmax( s (W + B_h A_h) E_{W_l + B_l A_l}(x) / ||E(x)|| / tau )        the projector of labels
    1.  min_{A, B, s}  E_{x real}  tau^2 KL( softmax(t(x~) / tau) || p(x~) )        x~ = crop(x)
    2.  min_x          tau^2 KL( softmax(t(x~) / tau) || p(x~) ) + mu CE(t(x~), y)  x synthetic
    3.  a network learns KL( p(x~) || softmax(f(x~) / tau) ), with labels made as it trains

Soft labels of every crop of every epoch take far more room than the images that they belong to. Here a frozen encoder,
which anybody can get, is taught by low-rank changes to label as the classifier t of the data does: only those changes
are stored. The images begin as the real crops of which t is surest, and are moved to where the two agree.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, NonNegative, Positive, Setting, Update
from limbeck.core.modules import freeze
from limbeck.data.batches import Images
from limbeck.data.crops import resized_crop
from limbeck.data.images import ImageSet
from limbeck.errors import InputError
from limbeck.losses.divergence import kl, soft_log
from limbeck.losses.matching import class_means
from limbeck.methods.dataset._shared import begun, real_images
from limbeck.models.classifier import Classifier
from limbeck.models.label_projector import Embedding
from limbeck.models.load import load_classifier
from limbeck.models.synthetic import Plain, SyntheticSet
from limbeck.models.use import ProjectedLabels

CARD = Card(
    key="hello",
    title="Heavy Labels Out! Dataset Distillation with Label Space Lightening",
    authors="Ruonan Yu, Songhua Liu, Zigeng Chen, Jingwen Ye, Xinchao Wang",
    year=2024,
    url="https://arxiv.org/abs/2408.08201",
    family="dataset",
    summary="Stores no soft labels but a small change of a frozen encoder, which makes them as a network trains.",
    modality="dataset",
    teacher="ensemble",
    signal="logits",
    needs=("logits", "features", "input_gradients"),
    loop="pipeline",
    fidelity="reconstruction",
    notes="Two teachers: the classifier whose labels are wanted, and the encoder, any classifier without its head, "
    "trained on other data; a run is given it by --method.encoder. No code was released. Assumed: the terms and "
    "weights of the second stage, the ranks, the temperature, and how images begin (the crop of each real image that "
    "the classifier is surest of, and of those the surest). The paper's encoder is CLIP, whose head begins as the "
    "texts of the class names, which need no room; here W are the encoder's mean features of the first synthetic "
    "images, less their mean, which are stored and counted. The set's budget counts them and the low-rank numbers as "
    "labels, but not the encoder.",
)


class Hello(Method):
    """A projector of labels, and images on which it agrees with the classifier.

    Args:
        real: the images to stand for.
        teachers: the classifier t of the images, and the encoder E.
    """

    real: ImageSet
    teachers: nn.ModuleList
    _: KW_ONLY
    per_class: Count = 10
    """Synthetic images a class."""
    rank: Count = 4
    """r of the low-rank changes."""
    tau: Positive = 20.0
    """Temperature of all labels."""
    mu: NonNegative = 1.0
    """Weight of the class in the second stage."""
    crops: Count = 5
    """Crops of every real image that the first images are chosen from."""
    lower: Positive = 0.3
    """Least share of an image that a crop shows."""
    flip: bool = True
    """Turn half of the crops around; not for digits and letters."""
    mix: Literal["cutmix", "mixup", "none"] = "cutmix"
    """How two images are mixed when networks are trained."""
    encoder: str = ""
    """Folder or Hub id of the encoder, a classifier of any images and classes, in the place of a second teacher."""

    def __post_init__(self) -> None:
        if self.encoder:
            self.teachers = nn.ModuleList([*self.teachers, load_classifier(self.encoder)])
        if len(self.teachers) != 2:
            raise InputError(
                "teacher", len(self.teachers), "teachers were found; give the classifier, and an encoder beside it"
            )
        freeze(self.teachers)
        self.stage: Literal["projector", "images"] = "projector"
        made = begun(self._surest(), self.per_class)
        encoder = self.teachers[1]
        assert isinstance(encoder, Classifier)
        with torch.no_grad():
            means = class_means(Embedding(encoder)(made()), made.y, len(made.classes))
        use = ProjectedLabels(
            encoder, F.normalize(means - means.mean(0), dim=1), rank=self.rank, tau=self.tau, lower=self.lower,
            flip=self.flip, mix=self.mix,
        )  # fmt: skip
        self.student = SyntheticSet(made.images, made.stored_y, made.classes, use=use, name=made.name)

    @torch.no_grad()
    def _surest(self) -> ImageSet:
        """Of every class the ``per_class`` images, each as its best crop, to which t gives the most of their class."""
        best, score = [], []
        for rows in torch.arange(len(self.real)).split(256):
            x, y = self.real.take(rows)
            seen = torch.stack([resized_crop(x, self.lower) for _ in range(self.crops)])
            told = self.teachers[0](seen.flatten(0, 1)).log_softmax(1).unflatten(0, (self.crops, -1))
            sure, which = told.gather(2, y.expand(self.crops, -1)[..., None])[..., 0].max(0)
            best.append(seen[which, torch.arange(len(x))].clamp(0, 1))
            score.append(sure)
        order = torch.cat(score).argsort(descending=True, stable=True)
        y = self.real.labels[order]
        rows = torch.cat([order[y == k][: self.per_class] for k in range(len(self.real.classes))])
        return ImageSet(torch.cat(best)[rows], self.real.labels[rows], self.real.classes, self.real.name)

    @property
    def use(self) -> ProjectedLabels:
        """The projector."""
        assert isinstance(self.student.use, ProjectedLabels)
        return self.student.use

    def loss(self, batch: Images, clock: Clock) -> Mapping[str, Tensor]:
        real = self.stage == "projector"
        x = resized_crop(batch.x if real else self.student(), self.lower, flip=self.flip)
        with torch.set_grad_enabled(not real):
            t = self.teachers[0](x)
        apart = self.tau**2 * kl(soft_log(t, self.tau), soft_log(self.use.label(x), self.tau)).mean()
        if real:
            return {"imitation": apart}
        return {"agreement": apart, "ce": self.mu * F.cross_entropy(t, self.student.y)}

    def updates(self, batch: Images, clock: Clock) -> Generator[Update, bool, None]:
        yield Update(self.loss(batch, clock))
        if self.stage == "images":
            assert isinstance(self.student.images, Plain)
            with torch.no_grad():
                self.student.images.pixels.clamp_(0, 1)

    def players(self) -> dict[str, list[nn.Parameter]]:
        own = [self.use.low_rank, self.use.scale]
        return {"student": own if self.stage == "projector" else list(self.student.images.parameters())}

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> SyntheticSet:
        method = cls(real_images(setting), nn.ModuleList(setting.teachers), **values)
        setting.fit(method, name="projector")
        method.stage = "images"
        setting.fit(method, name="images")
        return method.student
