"""DREAM: efficient dataset distillation by representative matching (Liu et al., 2023).
https://arxiv.org/abs/2302.14416

    B_c = { argmin_{x in cluster k} || phi(x) - mu_k ||_2 : k = 1 ... K }          k-means on the phi(x) of class c
    L   = sum_c D( grad_theta CE(f(B_c), c), grad_theta CE(f(S_c), c) )            the gradient matching of IDC, or
    L   = sum_c || mean phi(B_c) - mean phi(S_c) ||_2^2                            distribution matching

Random real batches cover a class unevenly, and their gradients are noisy. The samples nearest to the centres of its
clusters, found anew every few steps by the features of the network of the moment, cover it evenly. The synthetic images
begin as such samples. For gradients the network is trained on real images meanwhile, and drawn anew from time to time.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, Positive, Setting, Update
from limbeck.core.modules import Taps
from limbeck.data.augment import augmentation
from limbeck.data.batches import Images
from limbeck.data.images import ImageSet
from limbeck.losses.matching import gradient_distance, mean_distance
from limbeck.methods.dataset._shared import alike, begun, distilled, representative
from limbeck.models.aged import Aged
from limbeck.models.classifier import Classifier
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.unroll import parameters_of
from limbeck.models.use import Descent

CARD = Card(
    key="dream",
    title="DREAM: Efficient Dataset Distillation by Representative Matching",
    authors="Yanqing Liu, Jianyang Gu, Kai Wang, Zheng Zhu, Wei Jiang, Yang You",
    year=2023,
    url="https://arxiv.org/abs/2302.14416",
    repo="https://github.com/lyq312318224/DREAM",
    family="dataset",
    summary="Matches the gradients, or the features, of the real images nearest to the centres of a class's clusters, "
    "not of random ones.",
    modality="dataset",
    teacher="none",
    signal="none",
    loop="alternating",
    notes="With sampling=random, how=real and base=gradient it is IDC (https://arxiv.org/abs/2205.14959), with "
    "base=distribution DM. As in IDC's code, the gradients of the weights are matched, without biases and head, class "
    "by class, by their squared distance; the network takes one pass through the step's random real images in batches "
    "of 64. The code also mixes those images (CutMix), here they are only augmented. The paper takes 10 images a class "
    "and more; the default here is 5, because a stored one holds four. The paper's optimiser is SGD with momentum 0.5, "
    "at a rate of 0.005 for 10 images a class and in proportion.",
)


class Dream(Method):
    """Gradients or features of representative real images, matched class by class.

    Args:
        real: the images to stand for.
        net: the kind of network to look through.
    """

    real: ImageSet
    net: Classifier
    _: KW_ONLY
    per_class: Count = 5
    """Synthetic images a class."""
    factor: Count = 2
    """Side of the square of smaller images that a stored one holds."""
    base: Literal["gradient", "distribution"] = "gradient"
    """What is matched: gradients, in a network that is trained meanwhile, or features, in a fresh one every step."""
    metric: Literal["mse", "cosine"] = "mse"
    """D of two gradients: squared differences, or one minus the cosine of every row."""
    sampling: Literal["representative", "random"] = "representative"
    """Which real images are matched; random ones are those of the step's batch."""
    clusters: Count = 128
    """K: representative images a class; smaller classes are taken whole."""
    interval: Count = 10
    """Steps between two clusterings."""
    inner: Count = 100
    """Steps that a network is trained for before another one is drawn."""
    rate: Positive = 0.01
    """Step size of the network's own training."""
    augment: str = "shift+rotate"
    """What is drawn alike for real and synthetic images, and for training on them."""
    how: Literal["representative", "real", "noise"] = "representative"
    """What the images are at first: those nearest to as many centres, random ones, or noise."""
    batch: Count = 64
    """Random real images a class and step, which train the network."""

    def __post_init__(self) -> None:
        self.seen = Aged(self.net, self.rate)
        self.alike = alike(self.augment, self.real.shape)
        self.change = augmentation(self.augment, self.real.shape) or (lambda images: images)
        self.matched = [
            n for n, p in self.net.named_parameters() if p.ndim > 1 and not n.startswith(f"{self.net.head}.")
        ]
        begin, how = self.real, self.how
        if how == "representative":
            begin, how = self.real.subset(representative(self.real, self.net, self.per_class * self.factor**2)), "real"
        use = Descent(augment=self.augment)
        self.student: SyntheticSet = begun(begin, self.per_class, how=how, factor=self.factor, use=use)
        counts = torch.bincount(self.real.labels, minlength=len(self.real.classes)).clamp(max=self.clusters)
        self.register_buffer("rows", torch.zeros(int(counts.sum()), dtype=torch.int64))

    def _features(self, x: Tensor) -> Tensor:
        return Taps(f"{self.net.head}:in")(self.net, x)[1][0].flatten(1)

    def _gradients(self, theta: dict[str, Tensor], x: Tensor, y: Tensor, graph: bool) -> list[Tensor]:
        loss = F.cross_entropy(functional_call(self.net, theta, (x,)), y)
        return list(torch.autograd.grad(loss, [theta[n] for n in self.matched], create_graph=graph))

    def loss(self, batch: Images, clock: Clock) -> Mapping[str, Tensor]:
        x, y = batch.x, batch.y
        if self.sampling == "representative":
            x, y = (part.to(batch.x.device) for part in self.real.take(self.rows.cpu()))
        x, s = self.alike(x, self.student())
        made = self.student.y
        if self.base == "distribution":
            with torch.no_grad():
                f = self._features(x)
            return {"match": mean_distance(f, y, self._features(s), made, len(self.student.classes)).sum()}
        theta = {name: p.requires_grad_() for name, p in parameters_of(self.net).items()}
        gaps: list[Tensor] = []
        for k in y.unique().tolist():
            real = self._gradients(theta, x[y == k], y[y == k], graph=False)
            gaps.append(
                gradient_distance(real, self._gradients(theta, s[made == k], made[made == k], True), self.metric)
            )
        return {"match": torch.stack(gaps).sum()}

    def updates(self, batch: Images, clock: Clock) -> Generator[Update, bool, None]:
        if self.base == "distribution" or clock.step % self.inner == 0:
            self.seen.renew()
        if self.sampling == "representative" and clock.step % self.interval == 0:
            self.rows.copy_(representative(self.real, self.net, self.clusters))
        taken = yield Update(self.loss(batch, clock))
        if taken and self.base == "gradient":
            for rows in torch.randperm(len(batch.x)).split(64):
                x, y = self.change(batch.x[rows]), batch.y[rows]
                self.seen.step(lambda net, x=x, y=y: F.cross_entropy(net(x), y))

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters())}

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> SyntheticSet:
        return distilled(cls, setting, values, values.get("batch", 64))
