"""Less is more: task-aware layer-wise distillation for language model compression (Liang, Zuo, Zhang, He, Chen & Zhao,
2023). https://arxiv.org/abs/2210.01351

    stage 1   min over W_k, h_k of 1/K sum_k CE(y, softmax(h_k(W_k H_k)))        for teacher and student, H frozen
    stage 2   L = CE(y, p_S) + a1 tau^2 KL(p_T || p_S) + a2 1/K sum_k mean (W_S^k H_S^k - sg[W_T^k H_T^M(k)])^2

H_k is what block k writes, W_k a filter, h_k a head that is thrown away after stage 1. Filters that have learnt what
the task needs take the place of random projections: the student learns that part of a layer, not all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, NonNegative, Positive, Setting, roles
from limbeck.core.modules import freeze
from limbeck.data.tokens import Tokens
from limbeck.losses.vocabulary import ForwardKL, token_loss, word_log_probs
from limbeck.methods.language._filters import Filters, FilterTraining
from limbeck.methods.language._shared import matched, mean

CARD = Card(
    key="ted",
    title="Less is More: Task-aware Layer-wise Distillation for Language Model Compression",
    authors="Chen Liang, Simiao Zuo, Qingru Zhang, Pengcheng He, Weizhu Chen, Tuo Zhao",
    year=2023,
    url="https://arxiv.org/abs/2210.01351",
    repo="https://github.com/cliang1453/task-aware-distillation",
    family="language",
    summary="Small filters learn what of each layer the task needs; there the student then matches the teacher.",
    modality="text",
    teacher="frozen",
    signal="features",
    needs=("features", "logits"),
    loop="pipeline",
    notes="The student is fine-tuned before it gets filters, in the same run. Filters take steps of their own, in "
    "which no network moves: with the defaults a run costs 1.4 times its steps. a1 and a2 are tuned per task in the "
    "paper. Its code averages the squares over padding too; here over the words to learn. Filters are linear. "
    "Small here: on a Llama cut in half a2 0.1 beat random projections by 0.014 nats a word and no states by 0.008; "
    "on one seed a2 1 and 10 were worse than none.",
)


class TED(Method):
    """Labels, the teacher's words and filtered hidden states; without filters, labels alone: the tuning before."""

    student: nn.Module
    teacher: nn.Module
    filters: Filters | None = None
    goal: Filters | None = None
    _: KW_ONLY
    tune_share: Annotated[float, Interval(ge=0, lt=1)] = 0.3
    """Share of the steps that fine-tune the student before it gets filters."""
    filter_share: Fraction = 0.2
    """Steps in which filters learn, as a share of the run's and beside them: the student's, then the teacher's."""
    soft: NonNegative = 1.0
    """a1, of the KL. The authors' scripts: 0 to 20 by task, mostly 20."""
    layer: NonNegative = 1.0
    """a2, of the filtered states. The authors' scripts: 10 to 7500 by task."""
    tau: Positive = 2.0
    """Temperature of the KL."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        if self.goal is not None:
            freeze(self.goal)

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        if self.filters is None or self.goal is None:
            return {"ce": -mean(word_log_probs(self.student(batch), batch.y), batch)}
        with torch.no_grad():
            t, theirs = self.goal(self.teacher, batch.teacher_view)
        words, ours = self.filters(self.student, batch)
        soft = self.soft * self.tau**2 * batch.weight
        found = token_loss(ForwardKL(), t, words, soft, tau=self.tau, labels=batch.y, label_weight=batch.weight)
        assert found.ce is not None
        squares = torch.stack([(s - h).square().mean(-1) for s, h in zip(ours, theirs, strict=True)]).mean(0)
        return {"ce": found.ce, "kd": found.total, "layer": self.layer * mean(squares, batch)}

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Fine-tune the student, learn the filters of both networks, distil."""
        given = roles(cls, setting)
        student, teacher = given["student"], given["teacher"]
        first = cls(student, teacher, **values)
        tune, learn = (round(share * setting.steps) for share in (first.tune_share, first.filter_share))
        if tune:
            setting.fit(first, name="tune", steps=tune)
        pairs = matched(student.depth, teacher.depth)
        filters = Filters(student, [s for s, _ in pairs], teacher.width)
        goal = Filters(teacher, [t for _, t in pairs], teacher.width)
        if learn:
            setting.fit(FilterTraining(teacher, goal), name="teacher-filters", steps=learn)
            setting.fit(FilterTraining(student, filters), name="student-filters", steps=learn)
        setting.fit(cls(student, teacher, filters, goal, **values), steps=setting.steps - tune)
        return student
