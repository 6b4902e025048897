"""Data distillation can be like vodka: progressive dataset distillation (Chen et al., 2023).
https://arxiv.org/abs/2310.06982

    theta^0_i = Train(theta^0_{i-1}, S_1 u .. u S_{i-1})                      theta^0_1 drawn anew; stages i = 1 ... P
    S_i       = argmin_S  L_base(S_1 u .. u S_{i-1} u S; theta^0_i)           the earlier sets stay as they are

One set cannot stand for all phases of a training. A part of the images is distilled for networks as they are at first,
the next one for networks that the first part has trained, and so on. A network is then trained in the same stages,
on all images so far, for as many steps in all as on a set that was made at once. The base is trajectory matching
(MTT), where experts go on from those networks on the real images, or distribution matching (DM) of their features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, Positive, Setting
from limbeck.core.modules import Taps, freeze
from limbeck.data.batches import Images
from limbeck.data.by_class import ClassBatches
from limbeck.data.images import ImageSet
from limbeck.errors import InputError
from limbeck.losses.matching import mean_distance
from limbeck.methods.dataset._shared import alike, begun, drawn_seed, real_images, unrollable
from limbeck.methods.dataset._trajectories import changed, gap, minibatches, segment
from limbeck.models.classifier import Classifier
from limbeck.models.synthetic import Plain, SyntheticSet
from limbeck.models.trajectories import Sgd, TrajectoryBank
from limbeck.models.unroll import replay, start
from limbeck.models.use import Staged

CARD = Card(
    key="pdd",
    title="Data Distillation Can Be Like Vodka: Distilling More Times For Better Quality",
    authors="Xuxi Chen, Yu Yang, Zhangyang Wang, Baharan Mirzasoleiman",
    year=2023,
    url="https://arxiv.org/abs/2310.06982",
    repo="https://github.com/VITA-Group/ProgressiveDD",
    family="dataset",
    summary="Distils in stages: each part of the set for networks that the earlier parts have trained.",
    modality="dataset",
    teacher="none",
    signal="none",
    loop="generations",
    notes="As in the authors' code, the networks of a stage are several, and with trajectories the experts start from "
    "them. A stage takes its share of the run's steps. Leaving easy real images out of later stages is not offered: it "
    "saves time, and its thresholds are not known. The code's other base is IDC.",
)


class Progressive(Method):
    """One stage: images for networks that a set has trained so far.

    Args:
        real: the images to stand for.
        net: the kind of network, without batch norm.
        before: the set of the earlier stages.
    """

    real: ImageSet
    net: Classifier
    before: SyntheticSet | None = None
    _: KW_ONLY
    per_class: Count = 10
    """Synthetic images a class, of all stages together."""
    stages: Count = 5
    """P."""
    base: Literal["trajectories", "features"] = "trajectories"
    """What is matched: experts' trajectories, or class means of features."""
    steps: Count = 10
    """N: steps on synthetic images; the paper's are 10 to 80."""
    span: Count = 2
    """M: moments that the expert has gone on for."""
    latest: Count = 10
    """T+: the first moment that no piece begins at."""
    rate: Positive = 0.01
    """alpha at the start."""
    batch: Count = 100
    """Synthetic images a step; a smaller set is taken whole."""
    augment: str = "shift+rotate"
    """A, which is also used to train on the set."""
    training_steps: Count = 300
    """Steps that a network is trained for on the whole set, a P-th of them in each stage."""
    how: Literal["real", "noise"] = "real"
    """What the images are at first."""
    experts: Count = 10
    """Networks of a stage; the paper's are 100."""
    expert_rate: Positive = 0.01
    """Their step size on real images."""
    expert_batch: Count = 256
    """Their images a step."""
    per_epoch: Count = 1
    """Moments of an epoch at which their parameters are kept."""
    real_batch: Count = 64
    """Real images a class and step, whose features are matched."""
    bank: str = ""
    """Folder that keeps them for other runs; none for memory."""

    def __post_init__(self) -> None:
        if self.per_class % self.stages:
            raise InputError(
                "per_class", self.per_class, f"is not the same for all {self.stages} stages: take a multiple"
            )
        unrollable(self.net)
        done = 0 if self.before is None else len(self.before) * self.stages // (self.per_class * len(self.real.classes))
        if self.before is not None:
            freeze(self.before)
        self.change, self.alike = changed(self.augment, self.real.shape), alike(self.augment, self.real.shape)
        moves = self.base == "trajectories"
        rates = [self.rate] if moves else []
        self.student: SyntheticSet = begun(self.real, self.per_class // self.stages, how=self.how, rates=rates)
        self.student.use = self._use(1)
        self.trajectories = TrajectoryBank(
            self.net, self.real, experts=self.experts, length=self.latest + self.span if moves else 0,
            per_epoch=self.per_epoch, training=Sgd(self.expert_rate, batch=self.expert_batch), seed=drawn_seed(),
            folder=f"{self.bank}/stage-{done + 1}" if self.bank else None, begin=self.before,
        )  # fmt: skip

    def _use(self, stages: int) -> Staged:
        steps = max(1, self.training_steps // self.stages)
        return Staged(stages, steps, augment=self.augment, own_rate=self.base == "trajectories")

    def loss(self, batch: Images, clock: Clock) -> Mapping[str, Tensor]:
        made, earlier = self.student, self.before
        x = made() if earlier is None else torch.cat([earlier().detach(), made()])
        y = made.y if earlier is None else torch.cat([earlier.y, made.y])
        if self.base == "features":
            return {"match": self._features_apart(batch, x, y)}
        assert made.rates is not None
        piece = segment(self.trajectories, self.latest, self.span)
        data = minibatches(x, y, made.rates[0], size=self.batch, steps=self.steps, change=self.change)
        return {"match": replay(self.net, start(piece.begin), data, lambda thetas: gap(thetas[-1], piece))}

    def _features_apart(self, batch: Images, x: Tensor, y: Tensor) -> Tensor:
        """``sum_k || mean_{x in T_k} f(x) - mean_{s in S_k} f(s) ||^2`` in one of the stage's networks."""
        theta = self.trajectories.at(int(torch.randint(self.experts, ())), 0)
        for name, p in self.net.named_parameters():
            p.copy_(theta[name])  # the template's own weights mean nothing
        real, made = self.alike(batch.x, x)
        last = Taps(f"{self.net.head}:in")
        with torch.no_grad():
            f = last(self.net, real)[1][0]
        return mean_distance(f, batch.y, last(self.net, made)[1][0], y, len(self.real.classes)).sum()

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters())}

    def joined(self) -> SyntheticSet:
        """The earlier sets and this one: of every class the earlier images first."""
        if self.before is None:
            return self.student
        parts = (self.before, self.student)
        y = torch.cat([part.y for part in parts])
        order = torch.argsort(y, stable=True)
        rates = [part.rates.tolist() for part in parts if part.rates is not None]
        pixels = torch.cat([part().detach() for part in parts])[order]
        stages = len(pixels) * self.stages // (self.per_class * len(self.real.classes))
        return SyntheticSet(
            Plain(pixels), y[order], self.real.classes, rates=[rate for part in rates for rate in part],
            use=self._use(stages), name=self.student.name,
        )  # fmt: skip

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> SyntheticSet:
        real, method = real_images(setting), None
        net: Any = setting.student()
        stages = values.get("stages", 5)
        for stage in range(1, stages + 1):
            before = None if method is None else method.joined()
            method = cls(real, net, before, **values)
            shown = method.real_batch if method.base == "features" else 1
            data = ClassBatches(real, shown, seed=drawn_seed())
            setting.fit(method, data=data, steps=max(1, setting.steps // stages), name=f"stage-{stage}")
        assert method is not None
        return method.joined()
