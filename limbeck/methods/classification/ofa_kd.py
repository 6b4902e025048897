"""One-for-all: bridge the gap between heterogeneous architectures in knowledge distillation (Hao et al., 2023).

https://arxiv.org/abs/2310.19444

    paper   L_OFA(z) = - (1 + p_T,y)^gamma log p_y(z) - sum_{c != y} p_T,c log p_c(z)
    code    L_OFA(z) = - sum_c ((p_T,c + [c = y])^gamma - [c = y]) log p_c(z)
    L = CE(y, z_S) + L_OFA(z_S) + sum_k L_OFA(branch_k(F_k))

A branch turns a stage F_k of the student into logits and is thrown away after training. Of the teacher only the final
logits p_T are used, so that its architecture does not matter. At gamma = 1 the code's loss is soft cross-entropy, the
printed one soft cross-entropy plus cross-entropy to the label; for other gammas they differ in the non-targets as well.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, NonNegative, Positive
from limbeck.core.modules import Taps, freeze
from limbeck.data.batches import Images
from limbeck.losses.divergence import soft_cross_entropy, soft_log
from limbeck.losses.targets import one_hot

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
    notes="The printed loss and the released code differ for every gamma; `variant` chooses. Branches follow the code: "
    "separable convolutions for maps, transformer blocks for tokens; they are as wide as the student's last layer (the "
    "code: as the wider of the two networks, which takes more than logits from the teacher). Assumed: two linear "
    "layers for plain vectors, which the paper's students do not have. No tau^2, as in the code.",
)
GRID = 7  # the code merges patches until about 7 x 7 are left


def enhanced(teacher: Tensor, labels: Tensor, gamma: float, variant: Literal["paper", "code"]) -> Tensor:
    """Weights of ``-log p_S``: teacher probabilities (B, K) and labels (B,) to (B, K); they do not sum to one."""
    y = one_hot(labels, teacher.shape[-1])
    if variant == "code":
        return (teacher + y) ** gamma - y
    return torch.where(y.bool(), (1 + teacher) ** gamma, teacher)


def separable(source: int, target: int, stride: int) -> nn.Sequential:
    """Two depthwise separable 3x3 convolutions, the first strided."""
    return nn.Sequential(
        nn.Conv2d(source, source, 3, stride, 1, groups=source, bias=False),
        nn.Conv2d(source, source, 1, bias=False),
        nn.BatchNorm2d(source),
        nn.ReLU(),
        nn.Conv2d(source, source, 3, 1, 1, groups=source, bias=False),
        nn.Conv2d(source, target, 1, bias=False),
        nn.BatchNorm2d(target),
        nn.ReLU(),
    )


def map_branch(shape: tuple[int, ...], width: int, later: int, K: int) -> nn.Sequential:
    """(B, C, H, W) to logits: one block for every ``later`` branch, doubling channels and halving the map."""
    channels, side = shape[0], min(shape[1:])
    blocks: list[nn.Module] = [] if later else [nn.Conv2d(channels, width, 1)]
    for k in range(later):
        stride = 2 if side > 2 else 1  # one pixel of one image has no batch statistics
        blocks.append(separable(channels, width if k == later - 1 else 2 * channels, stride))
        channels, side = 2 * channels, math.ceil(side / stride)
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, K))


class TokenBranch(nn.Module):
    """(B, T, D) to logits: patches merged to about 7 x 7, transformer blocks, the class token or else the mean."""

    def __init__(self, shape: tuple[int, ...], later: int, K: int) -> None:
        super().__init__()
        tokens, width = shape
        side = math.isqrt(tokens)
        self.first = int(side > 1 and tokens == side**2 + 1)  # a class token
        self.side = side
        square = tokens - self.first == side**2
        merges = max(int(math.log2(side / GRID)), 0) if square else 0
        self.merge = nn.Sequential(*[nn.Sequential(nn.Conv2d(width, width, 2, 2), nn.GELU()) for _ in range(merges)])
        block = (width, math.gcd(width, 4), 4 * width, 0.0, "gelu")
        self.blocks = nn.Sequential(
            *[nn.TransformerEncoderLayer(*block, batch_first=True, norm_first=True) for _ in range(max(later, 1))]
        )
        self.head = nn.Linear(width, K)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.merge):
            patches = self.merge(x[:, self.first :].mT.unflatten(2, (self.side, self.side)))
            x = torch.cat([x[:, : self.first], patches.flatten(2).mT], 1)
        x = self.blocks(x)
        return self.head(x[:, 0] if self.first else x.mean(1))


def branch(shape: tuple[int, ...], width: int, later: int, K: int) -> nn.Module:
    """An exit for a stage of that shape, without the batch axis; ``later`` branches follow it."""
    match len(shape):
        case 3:
            return map_branch(shape, width, later, K)
        case 2:
            return TokenBranch(shape, later, K)
        case _:
            return nn.Sequential(nn.Linear(shape[0], width), nn.ReLU(), nn.Linear(width, K))


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
        student, stages = self.student, self.student.stages
        count = min(self.branches, len(stages))
        self.taps = Taps(*[stages[(k + 1) * len(stages) // count - 1] for k in range(count)])
        [(*_, width)] = Taps(student.head + ":in").shapes(student, student.example)
        shapes = self.taps.shapes(student, student.example)
        made = [branch(shape, width, count - 1 - k, student.num_classes) for k, shape in enumerate(shapes)]
        self.exits = nn.ModuleList(made).to(student.example)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            p = soft_log(self.teacher(batch.teacher_x), self.tau).exp()
        weights = enhanced(p, batch.y, self.gamma, self.variant)
        s, features = self.taps(self.student, batch.x)
        exits = [made(feature) for made, feature in zip(self.exits, features, strict=True)]
        return {
            "ce": self.ce * nn.functional.cross_entropy(s, batch.y),
            "kd": self.kd * soft_cross_entropy(weights, soft_log(s, self.tau)).mean(),
            "ofa": self.ofa
            * torch.stack([soft_cross_entropy(weights, soft_log(z, self.tau)).mean() for z in exits]).sum(),
        }
