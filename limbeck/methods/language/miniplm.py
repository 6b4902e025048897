"""MiniPLM: knowledge distillation for pre-training language models (Gu, Zhou, Meng, Zhou & Huang, 2024).
https://arxiv.org/abs/2410.17215

    r(x) = (log p_T(x) - log p_ref(x)) / |x|                        difference sampling: T large, ref small
    D'   = the alpha |D| rows of D with the largest r
    L    = - 1/N sum_t log q(x_t | x_<t),   x in D'

A small reference, trained on a few random rows, and the teacher read the corpus once. What both find easy is trivial,
what both find hard is noise; what only the large one finds easy can be learnt. Only text is transferred.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, Setting, roles
from limbeck.core.modules import freeze
from limbeck.data.tokens import TokenBatches, Tokens
from limbeck.errors import InputError
from limbeck.losses.vocabulary import Words, word_log_probs
from limbeck.methods.language._shared import mean

CARD = Card(
    key="miniplm",
    title="MiniPLM: Knowledge Distillation for Pre-Training Language Models",
    authors="Yuxian Gu, Hao Zhou, Fandong Meng, Jie Zhou, Minlie Huang",
    year=2024,
    url="https://arxiv.org/abs/2410.17215",
    repo="https://github.com/thu-coai/MiniPLM",
    family="language",
    summary="The student reads the half of a corpus that a large model finds much easier than a small one does.",
    modality="text",
    teacher="frozen",
    signal="probabilities",
    needs=("logits",),
    loop="pipeline",
    tokenizers="any",
    notes="The reference has the student's size here, in the paper a fifth to a half of it or less. Rows of several "
    "lengths are compared by their mean over the student's words; the paper's have one length, 1024. The paper reads "
    "what it keeps once: a share alpha of the rows should last for all steps.",
)


class MiniPLM(Method):
    """Next-word cross-entropy on the rows that a teacher and a reference disagree on."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    alpha: Fraction = 0.5
    """Share of the scored rows that is kept."""
    share: Fraction = 0.05
    """Share of the rows that the reference is trained on, and that are not scored. Paper: 5 of 105 billion words. They
    are read as often as the rows that are kept, so the reference costs a tenth of the student's steps."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        for name in ("alpha", "share"):
            if not getattr(self, name):
                raise InputError(name, 0.0, "leaves no rows; make it larger")

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        return {"ce": -mean(word_log_probs(self.student(batch), batch.y), batch)}

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Train a reference, score the other rows, and train the student on the best of them."""
        method, data = cls(**roles(cls, setting), **values), setting.data
        if not isinstance(data, TokenBatches):
            raise InputError("data", type(data).__name__, "cannot be scored; give TokenBatches")
        N = len(data.dataset)
        order = torch.randperm(N, generator=torch.Generator().manual_seed(data.seed)).tolist()
        few = max(round(method.share * N), min(data.batch, N // 2))
        reference = cls(setting.student(), method.teacher, **values)
        steps = max(1, round(setting.steps * few / (method.alpha * (N - few))))
        setting.fit(reference, name="reference", data=some(data, order[:few]), steps=steps)
        rest = some(data, sorted(order[few:]))
        scores = difference_scores(method.teacher, reference.student, rest.plain(data.batch))
        setting.fit(method, data=some(rest, select(scores, method.alpha)))
        return method.student


@torch.no_grad()
def difference_scores(teacher: nn.Module, reference: nn.Module, batches: Iterable[Tokens]) -> Tensor:
    """r of every row, nats a word of the reference's: (N,) in the batches' order, on the processor.

    Args:
        teacher: reads ``teacher_view``, whose words may be others.
        reference: reads the batches; left in eval mode.
        batches: the rows to score.

    Raises:
        InputError: for a stored or served teacher, which has no probability for a given word.
    """
    reference.eval()
    device, scores = next(reference.parameters()).device, list[Tensor]()
    for batch in batches:
        batch = batch.to(device)
        said = teacher(batch.teacher_view)
        if not isinstance(said, Words):
            raise InputError("teacher", type(said).__name__, "cannot say how likely a row is; give a model in memory")
        large = word_log_probs(said, batch.teacher_view.y).sum(1)
        small = word_log_probs(reference(batch), batch.y).sum(1)
        scores.append(((large - small) / batch.mask.sum(1)).cpu())
    return torch.cat(scores)


def select(scores: Tensor, alpha: float) -> list[int]:
    """The rows with the largest scores, a share ``alpha`` of them and at least one, in ascending order."""
    best = scores.argsort(descending=True, stable=True)[: max(1, round(alpha * len(scores)))]
    return best.sort().values.tolist()


def some(data: TokenBatches, rows: list[int]) -> TokenBatches:
    """The batches of some rows, with the teacher's view of them."""
    return data.with_data(data.dataset.subset(rows), None if data.view is None else data.view.subset(rows))
