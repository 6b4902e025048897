"""Next-word training against counting: a small Llama and a smoothed bigram on the same text."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._language import batches, lm, nll, prose, rows, train, words_of
from limbeck.data.tokens import TokenSet
from limbeck.methods.language.sft import SFT
from limbeck.run.evidence import Result

CLAIM = (
    "Trained on the text alone, a Llama of one block predicts held-out words better than bigram counts that are "
    "smoothed with the words' own frequencies."
)
STEPS = 500


def bigram(train: TokenSet, test: TokenSet, strength: float = 8.0) -> float:
    """Held-out nats a word of ``(count(a, b) + strength p(b)) / (count(a) + strength)``."""
    V = len(train.tokenizer)
    pairs = torch.zeros(V, V)
    for row in range(len(train)):
        batch = train.take(torch.tensor([row]))
        pairs.index_put_((batch.x[batch.mask], batch.y[batch.mask]), torch.ones(()), accumulate=True)
    single = (pairs.sum(0) + 1) / (pairs.sum() + V)
    q = (pairs + strength * single) / (pairs.sum(1, keepdim=True) + strength)
    total, count = 0.0, 0
    for row in range(len(test)):
        batch = test.take(torch.tensor([row]))
        total -= float(q[batch.x[batch.mask], batch.y[batch.mask]].log().sum())
        count += int(batch.mask.sum())
    return total / count


def evidence(seed: int, data: Path | None = None) -> Result:
    """The counts have no seed; the network's weights and order have."""
    pair = prose(data)
    tokenizer = words_of(pair)
    learnt, held = rows(pair.train, tokenizer), rows(pair.test, tokenizer)
    student = lm(64, 1, tokenizer, seed)
    torch.manual_seed(seed)
    train(SFT(student), batches(learnt, seed), STEPS)
    return Result(
        metric="held-out loss, nats a word",
        baseline=bigram(learnt, held),
        method=nll(student, held),
        higher_is_better=False,
        versus="smoothed bigram counts of the same text",
    )
