"""How networks are trained on a synthetic set. A set carries its use, so that it is used as it was distilled for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.modules import freeze
from limbeck.data.augment import augmentation
from limbeck.data.crops import resized_crop
from limbeck.models.batch_norm import batch_statistics
from limbeck.models.label_projector import ProjectedLabels
from limbeck.models.mixing import Mix, follow, mixed
from limbeck.models.pretraining import Pretraining
from limbeck.models.unroll import StepData, Steps, start, step

if TYPE_CHECKING:
    from limbeck.models.synthetic import SyntheticSet

__all__ = [
    "Descent", "InOrder", "Pretraining", "ProjectedLabels", "Staged", "StaticLogits", "TeacherLabels",
    "Use", "descend", "follow",
]  # fmt: skip


class Use(Protocol):
    """Trains a network on a set, in place, under torch's global generator."""

    def __call__(self, net: nn.Module, made: SyntheticSet) -> None: ...


@dataclass(frozen=True)
class Descent:
    """Ordinary training: SGD with momentum 0.9 and a cosine, on mini-batches of augmented images.

    Args:
        steps: optimiser steps.
        rate: the step size at the start; the set's own mean rate where it has learnt some and ``own_rate`` is set.
        batch: images a step, all of them when there are fewer.
        augment: see :func:`limbeck.data.augment.augmentation`.
        own_rate: use the step size that the set has learnt.
        weight_decay: L2 on all parameters.
    """

    steps: int = 300
    rate: float = 0.05
    batch: int = 256
    augment: str = "none"
    own_rate: bool = False
    weight_decay: float = 5e-4

    def __call__(self, net: nn.Module, made: SyntheticSet) -> None:
        rate = made.rates.mean().item() if self.own_rate and made.rates is not None else self.rate
        y = made.y if made.targets is None else made.targets.detach().softmax(1)
        descend(net, made().detach().clamp(0, 1), y, steps=self.steps, rate=rate, batch=self.batch,
                augment=self.augment, weight_decay=self.weight_decay)  # fmt: skip


def descend(
    net: nn.Module, x: Tensor, y: Tensor, *, steps: int, rate: float, batch: int, augment: str = "none",
    weight_decay: float = 5e-4,
) -> None:  # fmt: skip
    """Train on (N, C, H, W) images and their classes (N,) or probabilities (N, K)."""
    change = augmentation(augment, (x.shape[1], x.shape[2], x.shape[3])) or (lambda images: images)
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9, weight_decay=weight_decay)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    net.train()
    left = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if not len(left):
            left = torch.randperm(len(x))
        rows, left = left[:batch], left[batch:]
        F.cross_entropy(net(change(x[rows])), y[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
        plan.step()
    net.eval()


@dataclass(frozen=True)
class Staged:
    """One stage after the other, each on the images of all stages so far (Chen et al. 2023,
    https://arxiv.org/abs/2310.06982): a class has as many images of every stage, the first stage's first.

    Args:
        stages: P.
        steps: optimiser steps of a stage, in which the step size falls as a cosine.
        rate: the step size at its start; with ``own_rate`` the one that the set has learnt in that stage.
        batch, augment, own_rate, weight_decay: see :class:`Descent`.
    """

    stages: int
    steps: int = 60
    rate: float = 0.05
    batch: int = 256
    augment: str = "none"
    own_rate: bool = False
    weight_decay: float = 5e-4

    def of_stage(self, made: SyntheticSet) -> Tensor:
        """(N,), the stage of every image, from 0."""
        y = made.y
        place = torch.stack([(y[:row] == k).sum() for row, k in enumerate(y.tolist())])
        return place * self.stages * len(made.classes) // len(y)

    def __call__(self, net: nn.Module, made: SyntheticSet) -> None:
        x, stage = made().detach().clamp(0, 1), self.of_stage(made)
        rates = None if made.rates is None else made.rates.detach().tolist()
        for now in range(self.stages):
            rows = stage <= now
            rate = self.rate if rates is None or not self.own_rate else rates[now]
            descend(net, x[rows], made.y[rows], steps=self.steps, rate=rate, batch=self.batch, augment=self.augment,
                    weight_decay=self.weight_decay)  # fmt: skip


class InOrder(nn.Module):
    """The set's steps in their order, each with its own images and its own step size, ``epochs`` times over (Wang et
    al. 2018): image s of every class belongs to step s.

    Args:
        epochs: times that all steps are taken; the rates are of every step of every epoch.
        begin: the network whose weights the set was distilled for; training begins with them. None for any.
    """

    def __init__(self, epochs: int, begin: nn.Module | None = None) -> None:
        super().__init__()
        self.epochs, self.begin = epochs, begin

    def steps(self, made: SyntheticSet) -> Steps:
        """The data of every step, as a function of the set."""
        assert made.rates is not None
        x, y, rates = made(), made.y, made.rates
        each = len(rates) // self.epochs
        order = torch.arange(len(x)).reshape(len(made.classes), each).T

        def make(n: int, x: Tensor, rates: Tensor) -> StepData:
            return StepData(x[order[n % each]], y[order[n % each]], rates[n])

        return Steps(x, rates, len(rates), make)

    def __call__(self, net: nn.Module, made: SyntheticSet) -> None:
        if self.begin is not None:
            net.load_state_dict(self.begin.state_dict())
        state = start({name: p.detach().clone() for name, p in net.named_parameters()})
        for data in self.steps(made):
            now = {n: p.detach().requires_grad_() for n, p in state.theta.items()}
            x, y, rate = (part.detach() for part in data)
            state = step(net, state._replace(theta=now), StepData(x, y, rate), graph=False)
        with torch.no_grad():
            for name, p in net.named_parameters():
                p.copy_(state.theta[name])
        net.eval()


class TeacherLabels(nn.Module):
    """Teachers label the very images that the network sees: a crop of each, flipped, mixed with another (FKD, Shen and
    Xing 2022, https://arxiv.org/abs/2112.01528, as SRe2L uses it, https://arxiv.org/abs/2306.13092).

        x~ = mix(crop(x)),   q = sum_m w_m f_m(x~),   L = KL(softmax(q / tau) || softmax(f(x~) / tau))

    Papers store the crops and labels of every epoch; here the teachers are carried instead, which gives the same
    numbers and is less to keep than steps x batch x K of them.

    Args:
        teachers: M classifiers; frozen.
        weights: w, which sum to 1; equal ones when left out.
        statistics: what the teachers' batch norms normalise by: what they have kept, or the ``batch`` of synthetic
            images itself, whose distribution is another (BSSL of Cui et al. 2025, https://arxiv.org/abs/2501.07575).
        lower: least share of an image that a crop shows.
        flip: turn half of the crops around.
        mix: how two images are mixed.
        tau: temperature of labels and network.
        steps, rate, batch: of the training (see :func:`follow`).
    """

    def __init__(
        self, teachers: nn.ModuleList, *, weights: Sequence[float] | None = None,
        statistics: Literal["kept", "batch"] = "kept", lower: float = 0.08, flip: bool = True, mix: Mix = "cutmix",
        tau: float = 20.0, steps: int = 300, rate: float = 1e-2, batch: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        self.teachers = nn.ModuleList(freeze(teacher) for teacher in teachers)
        self.weights = list(weights) if weights is not None else [1 / len(teachers)] * len(teachers)
        self.mix: Mix = mix
        self.statistics, self.lower, self.flip, self.tau = statistics, lower, flip, tau
        self.steps, self.rate, self.batch = steps, rate, batch

    @torch.no_grad()
    def label(self, x: Tensor) -> Tensor:
        """Their logits q (B, K), as they say them of these images together."""
        with ExitStack() as stack:
            for teacher in self.teachers if self.statistics == "batch" else ():
                stack.enter_context(batch_statistics(teacher))
            said = [w * teacher(x) for w, teacher in zip(self.weights, self.teachers, strict=True)]
        return torch.stack(said).sum(0)

    def __call__(self, net: nn.Module, made: SyntheticSet) -> None:
        x = made().detach().clamp(0, 1)

        def seen(rows: Tensor) -> tuple[Tensor, Tensor]:
            images = mixed(resized_crop(x[rows], self.lower, flip=self.flip), self.mix)[0]
            return images, self.label(images)

        follow(net, x, seen, steps=self.steps, rate=self.rate, batch=self.batch, tau=self.tau)


class StaticLogits(nn.Module):
    """One label an image: the mean of the teachers' logits, which the set stores as its ``targets``; images are mixed,
    and so are their logits (Zhang et al. 2024, https://arxiv.org/abs/2408.06927).

        L = KL( softmax((l q_i + (1 - l) q_j) / tau) || softmax(f(l x_i + (1 - l) x_j) / tau) ),   l ~ Beta(0.8, 0.8)

    Args:
        teachers: label sets that come without targets, such as the real images of a control; frozen.
        augment: of every image before it is mixed; see :func:`limbeck.data.augment.augmentation`.
        tau: temperature of labels and network.
        steps, rate, batch: of the training (see :func:`follow`).
    """

    def __init__(
        self, teachers: nn.ModuleList, *, augment: str = "crop+flip", tau: float = 30.0, steps: int = 300,
        rate: float = 1e-2, batch: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        self.teachers = nn.ModuleList(freeze(teacher) for teacher in teachers)
        self.augment, self.tau, self.steps, self.rate, self.batch = augment, tau, steps, rate, batch

    @torch.no_grad()
    def label(self, x: Tensor) -> Tensor:
        """The mean of their logits, (B, K)."""
        return torch.stack([teacher(x) for teacher in self.teachers]).mean(0)

    def __call__(self, net: nn.Module, made: SyntheticSet) -> None:
        x = made().detach().clamp(0, 1)
        q = self.label(x) if made.targets is None else made.targets.detach()
        change = augmentation(self.augment, (x.shape[1], x.shape[2], x.shape[3])) or (lambda images: images)

        def seen(rows: Tensor) -> tuple[Tensor, Tensor]:
            images, other, own = mixed(change(x[rows]), "mixup")
            return images, own * q[rows] + (1 - own) * q[rows][other]

        follow(net, x, seen, steps=self.steps, rate=self.rate, batch=self.batch, tau=self.tau)
