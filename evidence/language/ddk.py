"""A student that has read prose alone learns the rest of a manual: rows drawn by their number, evenly, or by DDK."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evidence._language import batches, distilled, lm, nll, prose, prose_teacher, rows, train, words_of
from limbeck.data.mixture import Mixture
from limbeck.data.text import TextSet
from limbeck.data.tokens import TokenSet
from limbeck.methods.language.ddk import DDK
from limbeck.methods.language.sft import SFT
from limbeck.models.causal_lm import CausalLM
from limbeck.run.evidence import Result

CLAIM = (
    "A student that has read nothing but prose is left with a smaller gap to its teacher in its worst domain, as a "
    "ratio of held-out perplexities, when DDK draws the rows than when distillation takes them as they come."
)
CODE, DOCUMENTS, WARM, STEPS, RATE, EVERY = 0.2, 600, 80, 80, 3e-3, 20


def divided(text: TextSet, border: float | None = None) -> tuple[TextSet, float]:
    """Two domains by the share of letters and spaces: the fifth of documents with the fewest is code and grammar."""
    said = [document[0].text for document in text.documents]
    share = [sum(c.isalpha() or c == " " for c in text) / len(text) for text in said]
    border = sorted(share)[int(CODE * len(share))] if border is None else border
    return replace(text, domains=tuple("code" if s < border else "prose" for s in share)), border


def of(data: TokenSet, domain: str) -> TokenSet:
    """One domain's rows."""
    return data.subset([k for k, name in enumerate(data.domains) if name == domain])


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same warm student, steps, optimiser, gamma and held-out rows in every arm."""
    pair = prose(data)
    tokenizer: Any = words_of(pair)
    taught = prose_teacher(rows(pair.train, tokenizer), seed)
    train_text, border = divided(pair.train.subset(range(DOCUMENTS)))
    learnt, held = rows(train_text, tokenizer), rows(divided(pair.test, border)[0], tokenizer)
    warm = lm(48, 1, tokenizer, seed)
    torch.manual_seed(seed)
    train(SFT(warm), batches(of(learnt, "prose"), seed), WARM)

    def gaps(student: CausalLM) -> list[float]:
        """exp of the difference of losses, a domain each."""
        parts = [of(held, name) for name in ("prose", "code")]
        return [float(torch.tensor(nll(student, part) - nll(taught, part)).exp()) for part in parts]

    def arm(stream: Any) -> list[float]:
        """The same loss on rows as the stream has them."""
        student = copy.deepcopy(warm)
        torch.manual_seed(seed)
        train(DDK(student, taught), stream, STEPS, RATE)
        return gaps(student)

    evenly = Mixture(learnt, seed=seed)
    evenly.weights = [0.5, 0.5]
    known, even = arm(batches(learnt, seed)), arm(evenly)
    torch.manual_seed(seed)
    made = distilled(DDK, lambda: copy.deepcopy(warm), taught, batches(learnt, seed), STEPS, RATE, every=EVERY)
    ddk = gaps(made)
    return Result(
        metric="perplexity over the teacher's, worst domain",
        baseline=max(known),
        method=max(ddk),
        higher_is_better=False,
        versus="the same loss on rows as they come",
        extra={
            "mean, DDK": sum(ddk) / 2,
            "mean, as they come": sum(known) / 2,
            "worst, drawn evenly": max(even),
            "mean, drawn evenly": sum(even) / 2,
            "code before": gaps(warm)[1],
        },
    )
