"""DP-OPD against DP-SGD on the labels: one public student, one budget, records that nobody else has seen."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from evidence._language import batches, lm, nll, prose, prose_teacher, rows, train, words_of
from limbeck.core.privacy import Mechanism
from limbeck.data.poisson import PoissonBatches
from limbeck.data.text import Span, TextSet, cut_text
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import Tokens
from limbeck.losses.vocabulary import TopK
from limbeck.methods.language.dp_opd import DPOPD
from limbeck.methods.language.sft import SFT
from limbeck.run.evidence import Result

CLAIM = (
    "From one student trained on public text, private steps that learn a public teacher's words for the student's own "
    "answers (DP-OPD) have a lower held-out loss than as many private steps on the labels, at epsilon 2."
)
CHARS, PROMPT, WARM, STEPS, BATCH, RATE, EPSILON, NORM = 90, 20, 100, 25, 48, 4e-3, 2.0, 0.2


class Labels(nn.Module):
    """A teacher that is sure of the data's next word: the forward KL to it is the cross-entropy."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, batch: Tokens) -> TopK:
        index: Tensor = batch.y.clamp_min(0)[..., None]
        return TopK(index, torch.zeros(index.shape), self.size, "none")


def records(text: TextSet) -> TextSet:
    """Each piece of text with its beginning as the prompt."""

    said = [document[0].text.strip() for document in cut_text(text, CHARS).documents]
    kept = [piece for piece in said if len(piece) > 2 * PROMPT]
    return TextSet(tuple((Span(piece[:PROMPT], False), Span(piece[PROMPT:])) for piece in kept), text.name)


def evidence(seed: int, data: Path | None = None) -> Result:
    """Teacher and student are trained on the first half of the texts; the records are of the second."""
    pair = prose(data)
    half = len(pair.train) // 2
    public, secret = pair.train.subset(range(half)), pair.train.subset(range(half, len(pair.train)))
    tokenizer = words_of(pair._replace(train=public), 512)
    taught = prose_teacher(rows(public, tokenizer), seed)
    private, held = (tokenise(records(text), tokenizer, 128) for text in (secret, pair.test))
    held, student = held.subset(range(min(len(held), 120))), lm(32, 1, tokenizer, seed)
    torch.manual_seed(seed)
    train(SFT(student), batches(rows(public, tokenizer), seed), WARM)
    budget = Mechanism.within(EPSILON, 1 / len(private), records=len(private), batch=BATCH, steps=STEPS)

    def arm(teacher: nn.Module, lmbda: float, beta: float) -> float:
        learner = copy.deepcopy(student)
        made = DPOPD(learner, teacher, budget, norm=NORM, lmbda=lmbda, beta=beta, longest=24)
        torch.manual_seed(seed + 1)
        train(made, PoissonBatches(private, BATCH, seed=seed + 1), STEPS, RATE)
        return nll(learner, held)

    return Result(
        metric="held-out loss, nats a word",
        baseline=arm(Labels(len(tokenizer)), 0.0, 0.0),
        method=arm(taught, 1.0, 0.5),
        higher_is_better=False,
        versus="private steps on the labels",
        extra={"before private steps": nll(student, held)},
    )
