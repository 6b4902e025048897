"""Eight vectors in the place of the beginning of a text: what they are trained for, labels and KL or labels alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from evidence._language import batches, lm, prose, prose_teacher, rows, train, words_of
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import TokenBatches, Tokens, TokenSet
from limbeck.losses.vocabulary import ForwardKL, Words, token_loss, word_log_probs
from limbeck.methods.language.mend import MEND
from limbeck.models.causal_lm import CausalLM
from limbeck.models.compressor import Compressor
from limbeck.run.evidence import Result

CLAIM = (
    "On held-out texts whose beginning stands in eight vectors, a frozen Llama stays closer to what it says after the "
    "text itself when the network that writes the vectors was trained, on few texts, with labels and KL than with "
    "labels alone, and than when the beginning is left out."
)
VECTORS, LENGTH, CUT, TEXTS, STEPS, RATE = 8, 32, 0.8, 100, 150, 6e-3


def tails(batch: Tokens, made: Compressor) -> tuple[Tokens, torch.Tensor]:
    """The ends as rows of their own, and where their words are in the whole rows: (B, T) bool."""
    parts = made.split(batch)
    at = torch.arange(batch.x.shape[1]) - parts.begin[:, None]
    inside = (at >= 0) & batch.mask
    y = batch.y.gather(1, (parts.begin[:, None] + torch.arange(parts.tail.shape[1])).clamp(max=batch.y.shape[1] - 1))
    y = torch.where(parts.tail_mask.bool(), y, -100)
    return Tokens(parts.tail, y, parts.tail_mask, batch.index, batch.key), inside


@torch.no_grad()
def judged(taught: CausalLM, made: Compressor, held: TokenSet) -> dict[str, float]:
    """Nats a word of the ends: KL(after the text || after vectors, after nothing), and losses."""
    made.eval()
    found = dict.fromkeys(("kl", "kl, left out", "loss", "loss, left out", "loss, text"), 0.0)
    count = 0
    for batch in TokenBatches(held, 32, shuffle=False):
        own, inside = tails(batch, made)
        whole, vectors, alone = taught(batch), made(batch), taught(own)
        whole, vectors, alone = whole.rows(inside), vectors.rows(inside), alone.rows(own.mask)
        y, ones = batch.y[inside], torch.ones(int(inside.sum()))
        count += len(y)

        def kl(words: Words, whole: Words = whole, ones: torch.Tensor = ones) -> float:
            return float(token_loss(ForwardKL(), whole, words, ones).total)

        found["kl"] += kl(vectors)
        found["kl, left out"] += kl(alone)
        for name, words in (("loss", vectors), ("loss, left out", alone), ("loss, text", whole)):
            found[name] -= float(word_log_probs(words, y).sum())
    return {name: value / count for name, value in found.items()}


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same texts, order, steps, optimiser and first weights in both arms."""
    pair = prose(data)
    tokenizer: Any = words_of(pair)
    taught = prose_teacher(rows(pair.train, tokenizer), seed)
    learnt = tokenise(pair.train.subset(range(TEXTS)), tokenizer, LENGTH)
    held = tokenise(pair.test.subset(range(60)), tokenizer, LENGTH)

    def arm(kd: float) -> dict[str, float]:
        torch.manual_seed(seed)
        method = MEND(lm(48, 1, tokenizer, seed), taught, vectors=VECTORS, cut=CUT, kd=kd)
        train(method, batches(learnt, seed), STEPS, RATE)
        assert isinstance(method.student, Compressor)
        return judged(taught, method.student, held)

    labels, both = arm(0.0), arm(1.0)
    return Result(
        metric="KL from the frozen model after the text, nats a word of its end",
        baseline=min(labels["kl"], labels["kl, left out"]),
        method=both["kl"],
        higher_is_better=False,
        versus="the better of vectors trained with labels alone and no beginning",
        extra={
            "labels alone": labels["kl"],
            "beginning left out": both["kl, left out"],
            "loss, labels and KL": both["loss"],
            "loss, labels alone": labels["loss"],
            "loss, beginning left out": both["loss, left out"],
            "loss, after the text": both["loss, text"],
        },
    )
