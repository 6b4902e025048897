"""DistillSpec: improving speculative decoding via knowledge distillation (Zhou et al., 2024).
https://arxiv.org/abs/2310.08461

    L = E_x E_y~G(x)  1/|y| sum_t D( p(. | x, y_<t) || q(. | x, y_<t) ),   no gradient through the sampling
    acceptance = E sum_v min(p(v), q(v)) = 1 - E TV(p, q)

p is the target that will judge, q the draft that is trained. G is the draft itself, the target, the data, or a mixture.
D: forward KL(p || q), reverse KL(q || p), JSD with weight 1/2, total variation: none of them wins everywhere.
``limbeck.models.speculative`` has the sampler and measures what was gained.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, NonNegative, Positive, Weight, value
from limbeck.core.modules import freeze
from limbeck.data.tokens import Tokens
from limbeck.losses.vocabulary import JSD, ForwardKL, ReverseKL, TotalVariation, token_loss
from limbeck.methods.language._shared import answers, drawn_alike, each_row

CARD = Card(
    key="distillspec",
    title="DistillSpec: Improving Speculative Decoding via Knowledge Distillation",
    authors="Yongchao Zhou et al.",
    year=2024,
    url="https://arxiv.org/abs/2310.08461",
    family="language",
    summary="A small draft model learns to propose the words that a large one would accept in speculative decoding.",
    modality="text",
    teacher="frozen",
    data="unlabelled",
    signal="logits",
    loop="on_policy",
    needs=("logits",),
    vanishes=("divergence",),
    notes="The loop is GKD's; the mean is taken over the words of an answer first, as the paper writes it. The draft "
    "starts from a fine-tuned model. otherwise='teacher' costs a generation by the target a batch; stored answers of "
    "the target are data. A target that is distilled first (the paper's cascade) is another run.",
)
DIVERGENCES = {"forward_kl": ForwardKL(), "reverse_kl": ReverseKL(), "jsd": JSD(0.5), "tvd": TotalVariation()}


class DistillSpec(Method):
    """A divergence from the menu, on answers of the draft, the target or the data."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    divergence: Literal["forward_kl", "reverse_kl", "jsd", "tvd"] = "forward_kl"
    """D. Paper: by task; forward KL on the draft's answers is strong, total variation suits greedy decoding."""
    own: Weight = 1.0
    """Share of batches that the draft answers itself, 0 to 1 or a schedule. Paper: 1 is best on average."""
    otherwise: Literal["data", "teacher"] = "data"
    """Whose answers the other batches have: the data's, or the target's."""
    tau: Positive = 1.0
    """Temperature of both distributions: the one that will be decoded with."""
    sample_tau: NonNegative = 1.0
    """Temperature of answers; 0 is greedy."""
    longest: Count = 128
    """Words of an answer at most."""

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        [drawn] = drawn_alike(1, batch.x.device)
        if drawn < value(self.own, clock):
            batch = answers(self.student, batch, longest=self.longest, tau=self.sample_tau)
        elif self.otherwise == "teacher":
            batch = answers(self.teacher, batch, longest=self.longest, tau=self.sample_tau)
        with torch.no_grad():
            p = self.teacher(batch.teacher_view)
        found = token_loss(DIVERGENCES[self.divergence], p, self.student(batch), each_row(batch), tau=self.tau)
        return {"divergence": found.total}
