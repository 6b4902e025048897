"""Self-supervised dataset distillation for transfer learning, KRR-ST (Lee et al., 2023).
https://arxiv.org/abs/2310.06511

    inner:  min_theta 1/2 || W_theta phi_theta(X_s) - Y_s ||_F^2                    by gradient descent, no chance in it
    outer:  L(X_s, Y_s) = mean || K_ts (K_ss + lambda I)^-1 Y_s - g(X_t) ||^2
            F = [phi_omega, 1],   K_ss = F_s F_s^T,   K_ts = F_t F_s^T,   lambda = 1e-6 stopgrad(tr K_ss)

Synthetic images X_s come with targets Y_s in the feature space of a frozen encoder g. A network that was trained on the
pairs, phi_omega, gets a new last layer in closed form, kernel ridge regression, and must predict with it what g says of
real images X_t. The gradient goes to the pixels through phi_omega(X_s), and to the targets. The networks come from a
pool of mixed ages; the one that was looked through is trained by one more step, and is drawn anew when it is old.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, NonNegative, Positive, Setting, Update
from limbeck.core.modules import eval_mode, freeze
from limbeck.data.batches import Batches, Images
from limbeck.data.images import ImageSet
from limbeck.errors import InputError
from limbeck.methods.dataset._shared import begun, drawn_seed, real_images
from limbeck.models.aged import Aged
from limbeck.models.classifier import Classifier
from limbeck.models.pretraining import Pretraining, Regressor, embed
from limbeck.models.synthetic import SyntheticSet

CARD = Card(
    key="krr_st",
    title="Self-Supervised Dataset Distillation for Transfer Learning",
    authors="Dong Bok Lee, Seanie Lee, Joonho Ko, Kenji Kawaguchi, Juho Lee, Sung Ju Hwang",
    year=2023,
    url="https://arxiv.org/abs/2310.06511",
    repo="https://github.com/db-Lee/selfsup_dd",
    family="dataset",
    summary="Learns images with continuous targets, from which a network regresses a frozen encoder's features of real "
    "images in closed form.",
    modality="dataset",
    teacher="frozen",
    signal="features",
    needs=("features",),
    loop="alternating",
    notes="The encoder is the teacher up to its head; the paper's is trained by Barlow Twins without labels. Labels "
    "take no part in the distillation: they choose the first images evenly, and the probe that makes a classifier of "
    "a network after its training on the set learns from them. The paper keeps its networks for 1000 steps, here it is "
    "50 by default; its optimiser is AdamW at 0.001 with a linear decay, for 160 000 steps with 1024 real images.",
)


def regression(f_s: Tensor, y_s: Tensor, f_t: Tensor, ridge: float) -> Tensor:
    """What kernel ridge regression from features (S, D) to targets (S, T) predicts for others (B, D), (B, T); in double
    precision, since features are fewer than samples."""
    one = [torch.cat([f.double(), torch.ones_like(f[:, :1], dtype=torch.float64)], 1) for f in (f_s, f_t)]
    kernel = one[0] @ one[0].T
    lam = ridge * kernel.trace().detach() * torch.eye(len(kernel), device=kernel.device)
    return one[1] @ one[0].T @ torch.linalg.solve(kernel + lam, y_s.double())


class KrrSt(Method):
    """Images and targets from which a closed-form head predicts an encoder's features.

    Args:
        real: the images to stand for.
        net: the kind of network that the set is to train.
        teacher: g, up to its head.
    """

    real: ImageSet
    net: Classifier
    teacher: Classifier
    _: KW_ONLY
    per_class: Count = 10
    """Synthetic images, in numbers of classes."""
    ridge: Positive = 1e-6
    """lambda, as a part of the kernel's trace."""
    pool: Count = 10
    """Networks to look through."""
    age: Count = 50
    """Steps after which a network is drawn anew."""
    rate: Positive = 0.1
    """Step size of the networks."""
    weight_decay: NonNegative = 1e-3
    """Of the networks."""
    augment: str = "shift"
    """Of the real images."""
    batch: Count = 256
    """Real images a step."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.student: SyntheticSet = begun(self.real, self.per_class)
        with torch.no_grad():
            y = embed(self.teacher, self.student())
        images, labels, classes = self.student.images, self.student.stored_y, self.real.classes
        use = Pretraining(rate=self.rate, weight_decay=self.weight_decay)
        self.student = SyntheticSet(images, labels, classes, targets=y, use=use, name=self.student.name)
        self.networks = nn.ModuleList()
        for _ in range(self.pool):
            net = Aged(Regressor(copy.deepcopy(self.net), y.shape[1]), self.rate, weight_decay=self.weight_decay)
            net.renew()
            for _ in range(int(torch.randint(1, self.age + 1, ()))):
                self.advance(net)
            self.networks.append(net)

    def advance(self, member: Aged) -> None:
        """One step of a network on the whole set; an old one is replaced."""
        if int(member.age) >= self.age:
            member.renew()
            return
        x, targets = self.student().detach(), self.student.targets
        assert targets is not None
        y = targets.detach()
        member.train()
        member.step(lambda net: F.mse_loss(net(x), y))

    def outer(self, member: Aged, x: Tensor) -> Tensor:
        """L, a scalar, through one network."""
        assert self.student.targets is not None and isinstance(member.net, Regressor)
        with eval_mode(member):
            with torch.no_grad():
                g, f_t = embed(self.teacher, x), embed(member.net.net, x)
            f_s = embed(member.net.net, self.student())
        return F.mse_loss(regression(f_s, self.student.targets, f_t, self.ridge), g.double()).float()

    def updates(self, batch: Images, clock: Clock) -> Generator[Update, bool, None]:
        member = self.networks[int(torch.randint(self.pool, ()))]
        assert isinstance(member, Aged)
        if (yield Update({"regression": self.outer(member, batch.x)})):
            self.advance(member)

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters())}

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> SyntheticSet:
        if len(setting.teachers) != 1:
            raise InputError("teacher", len(setting.teachers), "teachers were given; this method takes exactly one")
        real, net, teacher = real_images(setting), setting.student(), setting.teachers[0]
        assert isinstance(net, Classifier) and isinstance(teacher, Classifier)
        method = cls(real, net, teacher, **values)
        data = Batches(real, min(method.batch, len(real)), seed=drawn_seed(), augment=method.augment)
        setting.fit(method, data=data)
        return method.student
