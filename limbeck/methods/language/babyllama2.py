"""BabyLlama-2: ensemble-distilled models consistently outperform teachers with limited data (Tastet & Timiryasov,
2024). https://arxiv.org/abs/2409.17312

    z = 1/M sum_m z_m                                      the mean of the teachers' logits
    L = alpha CE(y, p_S) + (1 - alpha) tau^2 KL(softmax(z / tau) || softmax(z_S / tau))

The teachers have the student's size and corpus, and other seeds. Their mean logits are never made: they are what the
concatenated heads say of the concatenated hidden states, 1/M [h_1 .. h_M] [W_1 .. W_M]^T.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, Positive
from limbeck.core.modules import freeze
from limbeck.data.tokens import Tokens
from limbeck.losses.vocabulary import ForwardKL, token_loss
from limbeck.models.teachers import mean_logits, mean_probabilities

CARD = Card(
    key="babyllama2",
    title="BabyLlama-2: Ensemble-Distilled Models Consistently Outperform Teachers With Limited Data",
    authors="Jean-Loup Tastet, Inar Timiryasov",
    year=2024,
    url="https://arxiv.org/abs/2409.17312",
    repo="https://github.com/timinar/BabyLlama",
    family="language",
    summary="Several networks of the student's own size, trained on the same small text, teach it with their mean.",
    modality="text",
    teacher="ensemble",
    signal="logits",
    needs=("logits",),
    vanishes=("kd",),
    notes="The released code divides the KL by the number of rows alone, so that it outweighs the labels by their "
    "length (kl_over='rows'), and counts padding, which is not offered.",
)


class BabyLlama2(Method):
    """Labels, and the mean of several equals."""

    student: nn.Module
    teachers: nn.ModuleList
    _: KW_ONLY
    alpha: Fraction = 0.5
    """Share of the labels' term."""
    tau: Positive = 1.0
    """Temperature of both distributions. Released configuration: 1."""
    average: Literal["logits", "probabilities"] = "logits"
    """What is averaged over the teachers; probabilities take memory of words times vocabulary."""
    kl_over: Literal["words", "rows"] = "words"
    """What the KL is a mean over: the words to learn or, as in the released code, the rows, summed over their words."""

    def __post_init__(self) -> None:
        freeze(self.teachers)

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            said = [teacher(batch.teacher_view) for teacher in self.teachers]
            t = mean_logits(said) if self.average == "logits" else mean_probabilities(said, self.tau)
        over = batch.weight if self.kl_over == "words" else batch.mask / len(batch.x)
        found = token_loss(
            ForwardKL(),
            t,
            self.student(batch),
            (1 - self.alpha) * self.tau**2 * over,
            tau=self.tau,
            labels=batch.y,
            label_weight=self.alpha * batch.weight,
        )
        assert found.ce is not None
        return {"ce": found.ce, "kd": found.total}
