"""CV-DD: dataset distillation via committee voting (Cui et al., 2025). https://arxiv.org/abs/2501.07575

    w_m  = exp(a_m / tau) / sum_{m' in C} exp(a_m' / tau)                  a_m in per cent, C the committee of an image
    L(x) = sum_{m in C} w_m [ CE(f_m(A(x)), y) + r_bn sum_l k_l (||mu_l - mu_l^BN||_2 + ||sigma_l^2 - var_l^BN||_2) ]

Images are recovered from N trained networks at a time, drawn anew for every image of a class, whose votes weigh by what
is known of them: the accuracy a_m of a network that is trained on a set which member m made alone. Images begin as real
ones. The labels are of all members together, whose batch norms take the statistics of the synthetic batch (BSSL): its
distribution is not the one that they have kept.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Setting, Update, roles
from limbeck.core.modules import freeze
from limbeck.data.batches import Images
from limbeck.data.images import ImageSet
from limbeck.errors import InputError
from limbeck.methods.dataset._recover import clip, grouped, recovered, right, shaken, trained
from limbeck.methods.dataset._shared import begun, real_images
from limbeck.models.batch_norm import batch_norms
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.use import TeacherLabels

CARD = Card(
    key="cv_dd",
    title="Dataset Distillation via Committee Voting",
    authors="Jiacheng Cui, Zhaoyi Li, Xiaochen Ma, Xinyue Bi, Yaxin Luo, Zhiqiang Shen",
    year=2025,
    url="https://arxiv.org/abs/2501.07575",
    repo="https://github.com/Jiacheng8/CV-DD",
    family="dataset",
    summary="Images recovered from several networks at once, whose votes weigh by how well each one's own images "
    "teach.",
    modality="dataset",
    teacher="ensemble",
    signal="logits",
    loop="pipeline",
    needs=("logits", "weights", "input_gradients"),
    fidelity="reconstruction",
    notes="The teachers must have batch norm. With one teacher it is the paper's baseline SRe2L++. Assumed: labels are "
    "the members' logits, weighted by the shares of their accuracies, as the released scripts' arguments say. The "
    "accuracies are measured on the real images, a recovery and a training for each member; voting=equal saves them. "
    "Images begin as whole real ones; the released code takes patches, ranked by difficulty. The optimiser is Adam "
    "(0.5, 0.9) with a cosine from 0.1 in normalised pixels, some 0.025 of pixels in [0, 1], for 1000 to 4000 steps; "
    "students get batches of 16.",
)


class CVDD(Method):
    """Images that a committee of trained networks knows.

    Args:
        real: the images to begin with.
        teachers: M networks that were trained on them, with batch norm.
        prior: (M,), their a_m in per cent; equal votes when left out.
    """

    real: ImageSet
    teachers: nn.ModuleList
    prior: Tensor | None = None
    _: KW_ONLY
    per_class: Count = 10
    """Synthetic images a class."""
    voters: Count = 2
    """N: networks that an image is recovered from; all of them where there are fewer."""
    voting: Literal["prior", "equal", "random"] = "prior"
    """How their votes weigh."""
    temperature: Positive = 5.0
    """tau of the votes."""
    r_bn: NonNegative = 0.05
    """Weight of the statistics."""
    first: NonNegative = 10.0
    """k_1: weight of the first batch norm among them; the others have 1."""
    lower: Positive = 0.08
    """Least share of an image that a crop shows."""
    flip: bool = True
    """Turn half of the crops around; not for digits and letters."""
    jitter: Fraction = 0.125
    """Largest roll, in heights of the image."""
    how: Literal["real", "noise"] = "real"
    """What the images are at first."""
    statistics: Literal["batch", "kept"] = "batch"
    """By what the teachers' batch norms normalise when they label: batch is BSSL."""
    tau: Positive = 20.0
    """Temperature of the labels."""
    mix: Literal["cutmix", "mixup", "none"] = "cutmix"
    """How two images are mixed when students are trained."""
    members: Tensor = field(init=False)
    votes: Tensor = field(init=False)

    def __post_init__(self) -> None:
        for teacher in self.teachers:
            batch_norms(freeze(teacher))
        total = len(self.teachers)
        prior = torch.full((total,), 100.0) if self.prior is None else self.prior
        if prior.shape != (total,) or float(prior.min()) < 0 or not float(prior.sum()) > 0:
            raise InputError("prior", prior.tolist(), f"must be {total} accuracies, one a teacher")
        shares = prior / prior.sum() if self.voting == "prior" else torch.full((total,), 1 / total)
        use = TeacherLabels(
            self.teachers, weights=shares.tolist(), statistics=self.statistics, lower=self.lower, flip=self.flip,
            mix=self.mix, tau=self.tau,
        )  # fmt: skip
        self.student: SyntheticSet = begun(self.real, self.per_class, how=self.how, use=use)
        drawn = [torch.randperm(total)[: self.voters] for _ in range(self.per_class)]
        self.register_buffer("members", torch.stack(drawn))  # (per_class, N)
        match self.voting:
            case "prior":
                votes = (prior[self.members] / self.temperature).softmax(1)
            case "equal":
                votes = torch.full(self.members.shape, 1 / self.members.shape[1])
            case "random":
                votes = torch.rand(self.members.shape)
                votes = votes / votes.sum(1, keepdim=True)
        self.register_buffer("votes", votes)

    def loss(self, batch: Images, clock: Clock) -> Mapping[str, Tensor]:
        x, y, groups = grouped(self.student)
        seen = shaken(x, groups, self.lower, flip=self.flip, jitter=self.jitter)
        parts, classes = seen.chunk(groups), y.chunk(groups)
        ce = bn = seen.new_zeros(())
        for m, teacher in enumerate(self.teachers):
            own, place = (self.members == m).nonzero(as_tuple=True)
            if len(own):
                rows = own.tolist()
                its, of = torch.cat([parts[k] for k in rows]), torch.cat([classes[k] for k in rows])
                found = recovered(teacher, its, of, len(rows), self.first)  # type: ignore[arg-type]
                w = self.votes[own, place] / groups
                ce, bn = ce + (w * found.ce).sum(), bn + (w * found.bn).sum()
        return {"ce": ce, "bn": self.r_bn * bn}

    def updates(self, batch: Images, clock: Clock) -> Generator[Update, bool, None]:
        yield Update(self.loss(batch, clock))
        clip(self.student)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> SyntheticSet:
        real, teachers = real_images(setting), roles(cls, setting)["teachers"]
        prior = None
        if len(teachers) > 1 and values.get("voting", "prior") == "prior":
            found = list[float]()
            for k, teacher in enumerate(teachers):
                alone = cls(real, nn.ModuleList([teacher]), **values)
                setting.fit(alone, name=f"prior-{k + 1}")
                found.append(100 * float(right(trained(setting, alone.student), real).float().mean()))
            prior = torch.tensor(found)
        method = cls(real, teachers, prior, **values)
        setting.fit(method)
        return method.student
