"""Born-again neural networks (Furlanello, Lipton, Tschannen, Itti & Anandkumar, 2018). https://arxiv.org/abs/1805.04770

A network is trained on labels; then another of the same kind, from a fresh start, on its probabilities; and so on.

    BAN:         L = - mean_s sum_c p^T_{s,c} log p^S_{s,c}                     (teacher: the generation before)
    BAN+labels:  L + CE(y, p^S)
    CWTM:        L = sum_s (m_s / sum_u m_u) (- log p^S_{s,y_s}),  m_s = max_c p^T_{s,c}
    DKPP:        BAN with the teacher's other probabilities permuted within each sample

The last two are the paper's diagnostics: of the teacher only its confidence (CWTM) or its confidence profile (DKPP) is
left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, Setting
from limbeck.core.modules import freeze
from limbeck.data.batches import Images
from limbeck.losses.divergence import soft_cross_entropy, soft_log
from limbeck.losses.targets import permute_rest
from limbeck.methods.self_distillation._shared import generations

CARD = Card(
    key="ban",
    title="Born Again Neural Networks",
    authors="Tommaso Furlanello, Zachary C. Lipton, Michael Tschannen, Laurent Itti, Anima Anandkumar",
    year=2018,
    url="https://arxiv.org/abs/1805.04770",
    family="self_distillation",
    summary="A network is retrained from scratch on its own predecessor's probabilities, generation after generation.",
    modality="image",
    teacher="previous",
    signal="probabilities",
    loop="generations",
    stationary=("ban",),
    notes="Every generation takes a full schedule: with the default of two, a run costs three trainings. "
    "Gains appear where labels are noisy or scarce; on clean small data expect none.",
)


def confidence_weighted(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """CWTM (section 3.1): logits (B, K), labels (B,) -> weighted cross-entropies (B,) whose *sum* is the loss."""
    most = teacher.softmax(-1).amax(-1)
    return most / most.sum() * F.cross_entropy(student, labels, reduction="none")


class BAN(Method):
    """One generation: cross-entropy to the previous one's probabilities; to the labels where there is none."""

    student: nn.Module
    teacher: nn.Module | None = None
    _: KW_ONLY
    target: Literal["ban", "ban+labels", "cwtm", "dkpp"] = "ban"
    """What is learnt from the generation before: its probabilities (with or without labels), or a diagnostic."""
    generations: Count = 2
    """Generations after the first network. Gains saturate at 2 or 3."""

    def __post_init__(self) -> None:
        if self.teacher is not None:
            freeze(self.teacher)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        s = self.student(batch.x)
        if self.teacher is None:
            return {"ce": F.cross_entropy(s, batch.y)}
        with torch.no_grad():
            t = self.teacher(batch.teacher_x)
        if self.target == "cwtm":
            return {"cwtm": confidence_weighted(s, t, batch.y).sum()}
        p = t.softmax(1)
        terms = {"ban": soft_cross_entropy(permute_rest(p) if self.target == "dkpp" else p, soft_log(s)).mean()}
        if self.target == "ban+labels":
            terms["ce"] = F.cross_entropy(s, batch.y)
        return terms

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """All generations; the last one's student. A given teacher takes the place of the first network."""
        count = values.get("generations", cls.generations) + (0 if setting.teachers else 1)
        *_, last = generations(setting, count, lambda student, teacher: cls(student, teacher, **values))
        return last
