"""Large language model distillation doesn't need a teacher (Jha, Sherborne, Walsh, Groeneveld, Strubell & Beltagy,
2023). https://arxiv.org/abs/2305.14864

    theta_S = {embedding, block_i1, ..., block_ik, norm, head} of theta_T
    L = (1 - a) CE(y, q) + a tau^2 KL(softmax(z_T / tau) || softmax(z_S / tau)),   a = 0

The student is some of the large network's own blocks, trained on as a language model is; no teacher is asked anything.
a > 0 is the arm that the paper compares with, ordinary distillation from the same start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, Positive, Setting
from limbeck.core.modules import freeze
from limbeck.data.tokens import Tokens
from limbeck.losses.vocabulary import ForwardKL, token_loss, word_log_probs
from limbeck.methods.language._shared import mean, original
from limbeck.models.surgery import spaced, truncate

CARD = Card(
    key="teacher_free_truncation",
    title="Large Language Model Distillation Doesn't Need a Teacher",
    authors="Ananya Harsh Jha, Tom Sherborne, Evan Pete Walsh, Dirk Groeneveld, Emma Strubell, Iz Beltagy",
    year=2023,
    url="https://arxiv.org/abs/2305.14864",
    family="language",
    summary="The student starts as some of the large model's own blocks and is simply trained on.",
    modality="text",
    teacher="frozen",
    signal="weights",
    needs=("weights",),
    fidelity="reconstruction",
    notes="Of the run's student only the number of blocks is used. Assumed: which blocks are best, hence the choice. "
    "The learning rate has to be warmed up to about the original's peak again, which is the run's setting; the paper's "
    "hidden-state losses of the distillation arm are left out.",
)


def chosen(depth: int, n: int, which: str) -> list[int]:
    """``n`` of ``depth`` blocks, rising: at the beginning, the end, both, in the middle, or spread over all."""
    if which == "middle":
        return list(range((depth - n) // 2, (depth - n) // 2 + n))
    if which == "spaced":
        return spaced(depth, n)
    before = {"first": n, "last": 0, "ends": (n + 1) // 2}[which]
    return [*range(before), *range(depth - (n - before), depth)]


class TeacherFreeTruncation(Method):
    """Next-word cross-entropy on a truncated copy; or that and the KL to the whole network, which is then kept."""

    student: nn.Module
    teacher: nn.Module | None = None
    _: KW_ONLY
    depth: Annotated[int, Ge(0)] = 0
    """Blocks of the student; 0 for as many as the run's student has. Paper: half."""
    blocks: Literal["spaced", "first", "last", "middle", "ends"] = "spaced"
    """Which of the blocks are kept; spaced: as far apart as possible, with the first and the last."""
    alpha: Fraction = 0.0
    """a, the share of the KL to the teacher; 0: no teacher is held in memory. Paper's other arm: 0.5."""
    tau: Positive = 1.0
    """Temperature of the KL."""

    def __post_init__(self) -> None:
        if self.teacher is not None:
            freeze(self.teacher)

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        words = self.student(batch)
        if self.teacher is None or self.alpha == 0:
            return {"ce": -mean(word_log_probs(words, batch.y), batch)}
        with torch.no_grad():
            t = self.teacher(batch.teacher_view)
        soft, hard = self.alpha * self.tau**2 * batch.weight, (1 - self.alpha) * batch.weight
        found = token_loss(ForwardKL(), t, words, soft, tau=self.tau, labels=batch.y, label_weight=hard)
        assert found.ce is not None
        return {"ce": found.ce, "kd": found.total}

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Cut the student out of the teacher, then train it."""
        whole = original(setting)
        n = values.get("depth", cls.depth) or setting.student().depth
        student = truncate(whole, chosen(whole.depth, n, values.get("blocks", cls.blocks)))
        method = cls(student, whole if values.get("alpha", cls.alpha) else None, **values)
        setting.fit(method)
        return student
