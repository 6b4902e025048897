"""One-for-all: bridge the gap between heterogeneous architectures in knowledge distillation (Hao et al., 2023).
https://arxiv.org/abs/2310.19444

    paper   L_OFA(z) = - (1 + p_T,y)^gamma log p_y(z) - sum_{c != y} p_T,c log p_c(z)
    code    L_OFA(z) = - sum_c ((p_T,c + [c = y])^gamma - [c = y]) log p_c(z)
    L = CE(y, z_S) + L_OFA(z_S) + sum_k L_OFA(branch_k(F_k))

A branch turns a stage F_k of the student into logits and is thrown away after training. Of the teacher only p_T is
used, so that its architecture does not matter. At gamma = 1 the code's loss is soft cross-entropy, to which the printed
one adds cross-entropy to the label; for other gammas they differ in the non-targets as well.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, NonNegative, Positive
from limbeck.core.modules import Taps, freeze
from limbeck.data.batches import Images
from limbeck.losses.divergence import soft_cross_entropy, soft_log
from limbeck.losses.targets import enhanced
from limbeck.models.exits import branch

CARD = Card(
    key="ofa_kd",
    title="One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation",
    authors="Zhiwei Hao, Jianyuan Guo, Kai Han, Yehui Tang, Han Hu, Yunhe Wang, Chang Xu",
    year=2023,
    url="https://arxiv.org/abs/2310.19444",
    repo="https://github.com/Hao840/OFAKD",
    family="classification",
    summary="Early exits on the student's stages, and its output, learn the final probabilities of a teacher of any "
    "architecture, with more weight on the true class the surer the teacher is of it.",
    modality="image",
    teacher="frozen",
    signal="logits",
    needs=("logits",),
    notes="The printed loss and the released code differ for every gamma; `variant` chooses. Branches follow the code "
    "but are as wide as the student's last layer (the code: as the wider of the two networks, which takes more than "
    "logits from the teacher). Assumed: two linear layers for plain vectors. No tau^2, as in the code.",
)


class OFAKD(Method):
    """Exits of the student learn the teacher's enhanced final probabilities."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    variant: Literal["paper", "code"] = "paper"
    """Which of the two losses above."""
    gamma: Positive = 1.5
    """Exponent of the target enhancement (the code's eps), the same for every branch. The authors: 1 to 2."""
    tau: Positive = 1.0
    """Temperature of both distributions."""
    branches: Count = 4
    """How many stages of the student get a branch, evenly spaced, the last always; all where it has fewer."""
    ce: NonNegative = 1.0
    """Weight of the cross-entropy to the label."""
    kd: NonNegative = 1.0
    """Weight of the loss on the student's own logits."""
    ofa: NonNegative = 1.0
    """Weight of the branches' losses, which are summed."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        student, stages, K = self.student, self.student.stages, self.student.num_classes
        count = min(self.branches, len(stages))
        self.taps = Taps(*[stages[(k + 1) * len(stages) // count - 1] for k in range(count)])
        [(*_, width)] = Taps(student.head + ":in").shapes(student, student.example)
        shapes = enumerate(self.taps.shapes(student, student.example), 1)
        self.exits = nn.ModuleList(branch(shape, width, count - k, K) for k, shape in shapes).to(student.example)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            p = soft_log(self.teacher(batch.teacher_x), self.tau).exp()
        weights = enhanced(p, batch.y, self.gamma, self.variant)
        s, features = self.taps(self.student, batch.x)
        exits = [soft_log(made(feature), self.tau) for made, feature in zip(self.exits, features, strict=True)]
        return {
            "ce": self.ce * F.cross_entropy(s, batch.y),
            "kd": self.kd * soft_cross_entropy(weights, soft_log(s, self.tau)).mean(),
            "ofa": self.ofa * torch.stack([soft_cross_entropy(weights, log_p).mean() for log_p in exits]).sum(),
        }
