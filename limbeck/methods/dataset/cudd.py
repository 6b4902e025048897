"""CUDD: curriculum dataset distillation (Ma et al., 2024). https://arxiv.org/abs/2405.09150

    D_r  = {x in D_c : argmax T(x) = c and argmax S_r(x) != c}                   where round r begins, class by class
    L(x) = CE(T(Ax), y) + r_bn R_BN(Ax) + l2 MSE(Ax, Ax_0) + adv m (-log(1 - softmax(S_r(Ax))_y))
    m    = 1[argmax T(Ax) = y]

The set is made in rounds. The first begins with real images that the teacher T gets right. Every later one begins with
those that T gets right and a student S_r, trained on all that was made so far, gets wrong; its images are to stay near
their origins, clear to T and hard for S_r. A draws the same for an image and its origin.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Setting, Update, roles
from limbeck.core.modules import freeze
from limbeck.data.batches import Images
from limbeck.data.images import ImageSet
from limbeck.methods.dataset._recover import clip, grouped, recovered, right, shaken, trained
from limbeck.methods.dataset._shared import begun, real_images
from limbeck.models.batch_norm import batch_norms
from limbeck.models.classifier import Classifier
from limbeck.models.synthetic import Plain, SyntheticSet
from limbeck.models.use import TeacherLabels

CARD = Card(
    key="cudd",
    title="Curriculum Dataset Distillation",
    authors="Zhiheng Ma, Anjia Cao, Funing Yang, Xing Wei",
    year=2024,
    url="https://arxiv.org/abs/2405.09150",
    repo="https://github.com/MIV-XJTU/CUDD",
    family="dataset",
    summary="A set made in rounds: each begins with what the teacher knows and a student of the earlier rounds does "
    "not.",
    modality="dataset",
    teacher="frozen",
    signal="logits",
    loop="generations",
    needs=("logits", "weights", "input_gradients"),
    fidelity="reconstruction",
    notes="The teacher must have batch norm. Assumed: rounds of equal size (the released code goes from 10 to 20 to 50 "
    "images a class). As there, no real image begins twice, and where a class has too few of the wanted kind, images "
    "that both networks get wrong follow, then any. The code multiplies the student's logits by m, which has the same "
    "gradient. The MSE is of pixels divided by the teacher's standard deviations. Every round takes a run's steps. The "
    "paper's optimiser is Adam (0.5, 0.9) with a cosine from 0.25 in normalised pixels, some 0.06 of pixels in [0, 1], "
    "for 4000 steps. Labels are the teacher's of every crop, as in SRe2L.",
)


class CUDD(Method):
    """One round: images that begin as given ones, clear to the teacher and hard for a student.

    Args:
        real: the images to begin with.
        teacher: trained on the whole data, with batch norm.
        rival: S_r, trained on the earlier rounds; none in the first.
    """

    real: ImageSet
    teacher: Classifier
    rival: nn.Module | None = None
    _: KW_ONLY
    per_class: Count = 10
    """Synthetic images a class, of all rounds together."""
    rounds: Count = 3
    """Rounds, of equal size."""
    l2: NonNegative = 1.0
    """Weight of the distance to the origin."""
    adv: NonNegative = 1.0
    """Weight of what the student is not to know."""
    r_bn: NonNegative = 0.01
    """Weight of the statistics."""
    first: NonNegative = 10.0
    """k_1: weight of the first batch norm among them; the others have 1."""
    lower: Positive = 0.08
    """Least share of an image that a crop shows."""
    flip: bool = True
    """Turn half of the crops around; not for digits and letters."""
    jitter: Fraction = 0.125
    """Largest roll, in heights of the image."""
    tau: Positive = 20.0
    """Temperature of the labels."""
    mix: Literal["cutmix", "mixup", "none"] = "cutmix"
    """How two images are mixed when students are trained."""
    origin: Tensor = field(init=False)

    def __post_init__(self) -> None:
        batch_norms(freeze(self.teacher))
        if self.rival is not None:
            freeze(self.rival)
        use = TeacherLabels(nn.ModuleList([self.teacher]), lower=self.lower, flip=self.flip, mix=self.mix, tau=self.tau)
        self.student: SyntheticSet = begun(self.real, self.per_class, use=use)
        self.register_buffer("origin", grouped(self.student)[0].detach().clone())

    def loss(self, batch: Images, clock: Clock) -> Mapping[str, Tensor]:
        x, y, groups = grouped(self.student)
        pair = torch.cat([x, self.origin], 1)  # along the channels: the same crop, turn and roll
        seen, source = shaken(pair, groups, self.lower, flip=self.flip, jitter=self.jitter).chunk(2, 1)
        found = recovered(self.teacher, seen, y, groups, self.first)
        terms = {
            "ce": found.ce.mean(),
            "bn": self.r_bn * found.bn.mean(),
            "l2": self.l2 * ((seen - source) / self.teacher.std).square().mean(),
        }
        if self.rival is not None:
            clear = found.logits.argmax(1) == y
            terms["adv"] = self.adv * (clear * doubt(self.rival(seen), y)).mean()
        return terms

    def updates(self, batch: Images, clock: Clock) -> Generator[Update, bool, None]:
        yield Update(self.loss(batch, clock))
        clip(self.student)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> SyntheticSet:
        real, teacher = real_images(setting), roles(cls, setting)["teacher"]
        count, rounds = values.get("per_class", cls.per_class), values.get("rounds", cls.rounds)
        used, made, rival = torch.zeros(len(real), dtype=torch.bool), list[SyntheticSet](), None
        for r in range(rounds):
            own = count // rounds + (r < count % rounds)
            if not own:
                break
            rows = hardest(real, teacher, rival, own, used)
            used[rows] = True
            its: dict[str, Any] = {**values, "per_class": own, "rounds": 1}
            method = cls(real.subset(rows), teacher, rival, **its)
            setting.fit(method, name=f"round-{r + 1}")
            made.append(method.student)
            if r + 1 < rounds:
                rival = trained(setting, together(made))
        return together(made)


def doubt(logits: Tensor, y: Tensor) -> Tensor:
    """``-log(1 - softmax(z)_y)`` (B,), by the other classes' logits, so that it is finite at certainty."""
    others = logits.masked_fill(F.one_hot(y, logits.shape[1]).bool(), -torch.inf)
    return logits.logsumexp(1) - others.logsumexp(1)


def hardest(real: ImageSet, teacher: nn.Module, rival: nn.Module | None, count: int, used: Tensor) -> Tensor:
    """``count`` rows of every class that were not used: first those that the teacher gets right and the rival wrong,
    then those that both get wrong, then the others; at random where there are more of a kind."""
    known = right(teacher, real)
    missed = known if rival is None else ~right(rival, real)
    kind = torch.where(missed & known, 0, torch.where(missed, 1, 2)) + 3 * used
    place = kind + torch.rand(len(real))
    rows = [(real.labels == k).nonzero().squeeze(1) for k in range(len(real.classes))]
    return torch.cat([own[place[own].argsort()[:count]] for own in rows])


def together(rounds: list[SyntheticSet]) -> SyntheticSet:
    """The sets of all rounds as one, class by class, used as the first."""
    x, y = torch.cat([part().detach() for part in rounds]), torch.cat([part.y for part in rounds])
    order = y.argsort(stable=True)
    first = rounds[0]
    return SyntheticSet(Plain(x[order]), y[order], first.classes, use=first.use, name=first.name)
