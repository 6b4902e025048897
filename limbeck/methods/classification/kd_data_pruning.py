"""Distilling the knowledge in data pruning (Ben-Baruch, Botach, Kviatkovsky, Aggarwal & Medioni, 2024).
https://arxiv.org/abs/2403.07854

    L = (1 - alpha(f)) CE(y, q) + alpha(f) tau^2 KL(softmax(z_T / tau) || softmax(z_S / tau)),   x in D_f

D_f is what pruning leaves of the training set, a fraction f. The smaller f, the larger alpha: the teacher, which has
seen all of it, makes up for the hard or wrongly labelled samples that scores of difficulty keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, Positive, Setting, roles
from limbeck.core.modules import freeze
from limbeck.data.batches import Images
from limbeck.losses.divergence import distil_kl
from limbeck.methods.classification._scores import scores, select

CARD = Card(
    key="kd_data_pruning",
    title="Distilling the Knowledge in Data Pruning",
    authors="Emanuel Ben-Baruch, Adam Botach, Igor Kviatkovsky, Manoj Aggarwal, Gérard Medioni",
    year=2024,
    url="https://arxiv.org/abs/2403.07854",
    family="classification",
    summary="Trains on a small part of the data, random or hard, with a teacher that has seen all of them.",
    modality="image",
    teacher="frozen",
    signal="logits",
    loop="pipeline",
    needs=("logits",),
    vanishes=("kd",),
    fidelity="reconstruction",
    notes="Assumed: the numbers of alpha(f), tau, that class proportions are kept. Steps are the same for every f. No "
    "data are saved over all: the teacher has seen what was pruned away. The ten networks of EL2N cost one training, "
    "of forgetting ten.",
)


def kd_weight(f: float) -> float:
    """alpha(f): 1 up to f = 0.3, then falling evenly to 0.5 at f = 1."""
    return 1.0 - 0.5 * max(0.0, f - 0.3) / 0.7


class KDDataPruning(Method):
    """Softened teacher probabilities and labels, blended by how much was pruned."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    keep: Fraction = 0.3
    """f, the share of the training set that is kept."""
    score: Literal["random", "el2n", "forgetting"] = "random"
    """What is kept: a random part, or the samples with the largest early error or the most forgetting events."""
    alpha: Fraction | None = None
    """Share of the soft term; left out, it is 1 up to f = 0.3 and falls to 0.5 at f = 1. With 0 the teacher is idle."""
    tau: Positive = 4.0
    """Temperature of both distributions."""
    balanced: bool = True
    """Keep that share of every class; without it, scores of difficulty drop whole classes when f is small."""
    scorers: Count = 10
    """Networks whose scores are averaged, each trained for a tenth of the steps (el2n) or for all (forgetting)."""

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            t = self.teacher(batch.teacher_x)
        s, alpha = self.student(batch.x), kd_weight(self.keep) if self.alpha is None else self.alpha
        kd = distil_kl(s, t, self.tau).mean()
        return {"ce": (1 - alpha) * F.cross_entropy(s, batch.y), "kd": alpha * kd}

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Score the training set, keep the top fraction f of it, and train on that for all the steps."""
        method = cls(**roles(cls, setting), **values)
        train, score = setting.data.dataset, scores(setting, method.score, method.scorers)
        rows = select(score, train.labels, method.keep, balanced=method.balanced)
        setting.fit(method, data=setting.data.with_data(train.subset(rows)))
        return method.student
