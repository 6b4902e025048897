"""Dataset Distillation (Wang, Zhu, Torralba and Efros, 2018). https://arxiv.org/abs/1811.10959

    theta_{i+1} = theta_i - eta_i grad_theta CE(f(x~_i; theta_i), y~_i)            i = 0 ... E S - 1
    L(x~, eta)  = E_{theta_0} CE(f(x; theta_{ES}), y)                              x, y real; minimised over x~ and eta

A few steps on a few synthetic images, each step with its own images and its own step size, are to bring a network from
its first weights to a low loss on real images. The gradient goes through all steps. ``random`` draws the first weights
anew, ``fixed`` distils for one network's weights alone, for which far fewer images do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, Positive, Setting
from limbeck.data.batches import Images
from limbeck.data.images import ImageSet
from limbeck.methods.dataset._shared import begun, distilled, unrollable
from limbeck.models.classifier import Classifier
from limbeck.models.renew import renew
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.unroll import KEEP, Parameters, parameters_of, replay, start
from limbeck.models.use import InOrder

CARD = Card(
    key="dd_wang",
    title="Dataset Distillation",
    authors="Tongzhou Wang, Jun-Yan Zhu, Antonio Torralba, Alexei A. Efros",
    year=2018,
    url="https://arxiv.org/abs/1811.10959",
    repo="https://github.com/SsnL/dataset-distillation",
    family="dataset",
    summary="Learns a few images and step sizes, so that a few steps on them train a network: the gradient goes "
    "through the training.",
    modality="dataset",
    teacher="none",
    signal="none",
    loop="supervised",
    notes="The unrolled steps are replayed one at a time (TESLA's way to constant memory), which gives the plain "
    "unroll's gradient. The set is used in its order, with its own step sizes, without augmentation; from fixed "
    "weights, those travel with it. The paper's optimiser is Adam at 0.01. Attacks (another outer loss) are left out.",
)


class DatasetDistillation(Method):
    """Images and step sizes that train a network in a few steps.

    Args:
        real: the images to stand for.
        net: the network that is trained, without batch norm.
    """

    real: ImageSet
    net: Classifier
    _: KW_ONLY
    steps: Count = 1
    """S: steps on different images; a synthetic image a class in each."""
    epochs: Count = 3
    """E: times that all of them are taken, each with step sizes of its own."""
    rate: Positive = 0.02
    """eta of all steps at the start."""
    weights: Literal["random", "fixed"] = "random"
    """theta_0: drawn anew, or the network's own, which a set then needs."""
    inits: Count = 4
    """First weights a step, when they are random."""
    how: Literal["real", "noise"] = "noise"
    """What the images are at first."""
    batch: Count = 64
    """Real images a class and step."""

    def __post_init__(self) -> None:
        unrollable(self.net)
        fixed = self.net if self.weights == "fixed" else None
        rates = [self.rate] * (self.steps * self.epochs)
        self.student: SyntheticSet = begun(
            self.real, self.steps, how=self.how, rates=rates, use=InOrder(self.epochs, fixed)
        )

    def loss(self, batch: Images, clock: Clock) -> Mapping[str, Tensor]:
        use = self.student.use
        assert isinstance(use, InOrder)

        def real(thetas: list[Parameters]) -> Tensor:
            return F.cross_entropy(functional_call(self.net, thetas[-1], (batch.x,)), batch.y)

        found: list[Tensor] = []
        inits = 1 if self.weights == "fixed" else self.inits
        for _ in range(inits):
            if self.weights == "random":
                renew(self.net)
            begin, steps = start(parameters_of(self.net)), use.steps(self.student)
            found.append(replay(self.net, begin, steps, real, keep=KEEP // inits))
        return {"real": torch.stack(found).mean()}

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> SyntheticSet:
        return distilled(cls, setting, values, values.get("batch", 64))
