"""Direct preference knowledge distillation for large language models (Li et al., 2024).
https://arxiv.org/abs/2406.19774

    r(x, y) = beta log(p_S(y | x) / p_T(y | x)) / |y|             the implicit reward of reverse KL, up to a constant
    L = (1 - k) CE(y_w) - k E log sigmoid(r(x, y_w) - r(x, y_l)),    y_w ~ p_T,   y_l ~ p_S

The teacher's answer y_w is to be preferred to the student's y_l, as in direct preference optimisation, but with the
teacher as reference. Released code, at every word t of the data instead, w_t = argmax p_T and l_t = argmax p_S:

    L_t = -log sigmoid(beta ((log p_S(w_t) - log p_S(l_t)) - (log p_T(w_t) - log p_T(l_t))))
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, Positive
from limbeck.core.modules import freeze, unwrap
from limbeck.data.tokens import Tokens
from limbeck.errors import InputError
from limbeck.losses.vocabulary import token_loss, word_log_probs
from limbeck.methods.language._shared import answers, mean
from limbeck.models.causal_lm import CausalLM

CARD = Card(
    key="dpkd",
    title="Direct Preference Knowledge Distillation for Large Language Models",
    authors="Yixing Li, Yuxian Gu, Li Dong, Dequan Wang, Yu Cheng, Furu Wei",
    year=2024,
    url="https://arxiv.org/abs/2406.19774",
    repo="https://github.com/microsoft/LMOps/tree/main/dpkd",
    family="language",
    summary="The student learns to prefer the teacher's answers to its own, with the teacher as the reference.",
    modality="text",
    teacher="frozen",
    signal="logits",
    loop="on_policy",
    needs=("logits", "text"),
    fidelity="reconstruction",
    notes="mode 'sequence' is the paper's, 'token' the released code's, which needs no answers. Assumed: the division "
    "by |y| is of each answer's own length, and the cross-entropy is that of the preferred answer. Start from a "
    "supervised student. The released runs add half a loss on pre-training text, which is left out.",
)


class DPKD(Method):
    """A logistic loss on the difference of two log-ratios of student to teacher."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    mode: Literal["sequence", "token"] = "sequence"
    """Pairs of answers (paper), or pairs of likeliest words in the data's answers (released code)."""
    preferred: Literal["teacher", "data"] = "teacher"
    """Who wrote y_w: the teacher, now, or the data, which may hold answers that it wrote before."""
    beta: Positive = 0.1
    """Of the implicit reward. Released code: 0.1."""
    k: Fraction = 0.5
    """Weight of the preference; 1 - k is that of the cross-entropy. Released runs: 0.5."""
    sample_tau: Positive = 1.0
    """Temperature at which answers are sampled."""
    longest: Count = 128
    """Words of an answer at most."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        if self.mode == "sequence" and self.preferred == "teacher" and not isinstance(unwrap(self.teacher), CausalLM):
            raise InputError("preferred", "teacher", "needs a teacher in memory; use 'data' or mode 'token'")

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        return self.of_words(batch) if self.mode == "token" else self.of_answers(batch)

    def of_answers(self, batch: Tokens) -> dict[str, Tensor]:
        """One pair a prompt."""
        if self.preferred == "teacher":
            won = answers(self.teacher, batch, longest=self.longest, tau=self.sample_tau)
        else:
            won = batch
        lost = answers(self.student, batch, longest=self.longest, tau=self.sample_tau)
        above, said = self.reward(won)
        below, _ = self.reward(lost)
        return {"ce": -(1 - self.k) * mean(said, won), "dpkd": -self.k * F.logsigmoid(above - below).mean()}

    def reward(self, answer: Tokens) -> tuple[Tensor, Tensor]:
        """The implicit reward (B,) and the student's log-probability of every word (B, T)."""
        with torch.no_grad():
            theirs = word_log_probs(self.teacher(answer), answer.y)
        ours = word_log_probs(self.student(answer), answer.y)
        return self.beta * (ours - theirs).sum(1) / answer.mask.sum(1).clamp(min=1), ours

    def of_words(self, batch: Tokens) -> dict[str, Tensor]:
        """One pair a word."""
        with torch.no_grad():
            signal = self.teacher(batch.teacher_view)
        of_pairs, of_labels = self.k * batch.weight, (1 - self.k) * batch.weight
        found = token_loss(
            self.preference, signal, self.student(batch), of_pairs, labels=batch.y, label_weight=of_labels
        )
        assert found.ce is not None
        return {"ce": found.ce, "dpkd": found.total}

    def preference(self, p: Tensor, q: Tensor) -> Tensor:
        """``L_t`` of log-probabilities of teacher and student, (n, V) and (n, V) -> (n,)."""
        w, l = p.argmax(-1, keepdim=True), q.argmax(-1, keepdim=True)  # noqa: E741
        margin = (q.gather(-1, w) - q.gather(-1, l)) - (p.gather(-1, w) - p.gather(-1, l))
        return -F.logsigmoid(self.beta * margin)[:, 0]
