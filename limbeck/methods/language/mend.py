"""MEND: meta demonstration distillation for efficient and effective in-context learning (Li, Ma, Lu, Lee, Liu & Guo,
2024). https://arxiv.org/abs/2403.06914

    S_D = Adapter(Hyper([D ; e_1 .. e_l]))[at the e's]                    l vectors that stand for the demonstrations D
    L = CE(y, p_S) + lambda 1/N sum_j KL(softmax(z_T(j | D) / tau) || softmax(z_S(j | S_D) / tau))     no tau^2

Teacher and student are one frozen network, which goes on from D or from S_D. What learns is the small network that
reads D once, for any D: the gradient reaches it through the frozen one.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive
from limbeck.core.modules import each_of, freeze
from limbeck.data.tokens import Tokens
from limbeck.errors import InputError
from limbeck.losses.vocabulary import ForwardKL, token_loss
from limbeck.models.causal_lm import CausalLM
from limbeck.models.compressor import Compressor

CARD = Card(
    key="mend",
    title="MEND: Meta dEmonstratioN Distillation for Efficient and Effective In-Context Learning",
    authors="Yichuan Li, Xiyao Ma, Sixing Lu, Kyumin Lee, Xiaohu Liu, Chenlei Guo",
    year=2024,
    url="https://arxiv.org/abs/2403.06914",
    repo="https://github.com/bigheiniu/MEND",
    family="language",
    summary="A small network turns a long prompt into a few vectors from which a large one answers as from the prompt.",
    makes="a compressor of prompts",
    modality="text",
    teacher="frozen",
    signal="logits",
    needs=("logits", "input_gradients", "weights"),
    fidelity="reconstruction",
    notes="The student becomes a Compressor, which is called like a language model and holds the frozen one without "
    "owning its weights. Assumed: lambda and tau, the released code's; where a text is cut. There the first word after "
    "S_D is predicted by nobody; here S_D's last vector does it, or an answer of one word would teach nothing. The "
    "paper's first stage is --method.ce 0 on plain text, its second goes on from there on prompts.",
)


class MEND(Method):
    """Labels and the words of the frozen network that reads everything, for the network that reads vectors."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    vectors: Count = 16
    """l. Paper: 100; released default: 5."""
    kd: NonNegative = 1.0
    """lambda, the weight of the KL."""
    ce: NonNegative = 1.0
    """Weight of the labels. Released first stage: 0."""
    tau: Positive = 1.0
    """Temperature of both distributions."""
    query: Annotated[int, Ge(0)] = 0
    """Tokens of a prompt's end that the large network reads itself: the question after the demonstrations."""
    cut: Fraction = 0.5
    """Where plain text is cut in demonstrations and tail."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        if not isinstance(self.teacher, CausalLM) or not isinstance(self.student, CausalLM):
            raise InputError("teacher", type(self.teacher).__name__, "cannot read vectors; give a model in memory")
        self.student = Compressor(self.student, self.teacher, self.vectors, query=self.query, cut=self.cut)

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        begin = self.student.split(batch).begin[:, None]
        at = torch.arange(batch.x.shape[1], device=begin.device)
        tail = (at >= begin - 1) & (at < (batch.segment > 0).sum(1, keepdim=True) - 1)
        learnt = tail & batch.mask
        with torch.no_grad():
            t = self.teacher(batch)
        found = token_loss(
            ForwardKL(), t, self.student(batch), self.kd * each_of(tail), tau=self.tau,
            labels=batch.y, label_weight=self.ce * each_of(learnt),
        )  # fmt: skip
        assert found.ce is not None
        return {"ce": found.ce, "kd": found.total}
