"""GKD's own comparison: the student's answers against the data's, under one teacher and one divergence.

Prompts are few and read many times, so that the data's answers are soon known by heart; the student's are always new.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from evidence._language import batches, lm, nll, prose, prose_teacher, rows, sequence_nll, train, words_of
from limbeck import Method
from limbeck.data.text import TextSet
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import TokenSet
from limbeck.methods.language._shared import answers
from limbeck.methods.language.gkd import GKD
from limbeck.methods.language.sft import SFT
from limbeck.models.causal_lm import CausalLM
from limbeck.run.evidence import Result

CLAIM = (
    "From one supervised student and sixty prompts, steps on the student's own continuations under the teacher's word "
    "distributions (GKD, lmbda 1) lead to a lower loss on held-out continuations than as many steps on the data's own "
    "(lmbda 0)."
)
DOCUMENTS, PROMPTS, WARM, STEPS, RATE, ASKED, SAID = 150, 60, 150, 150, 2e-3, 40, 24


def continuations(text: TextSet, tokenizer: object, count: int) -> TokenSet:
    """The first characters of a document as prompt, what follows as completion."""
    documents = [document[0] for document in text.documents if len(document[0].text) > 3 * ASKED][:count]
    cut = tuple(
        (span._replace(text=span.text[:ASKED], learn=False), span._replace(text=span.text[ASKED : 3 * ASKED]))
        for span in documents
    )
    return tokenise(TextSet(cut, text.name), tokenizer, 128)  # type: ignore[arg-type]


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same supervised student, prompts, order, steps and optimiser in every arm."""
    pair = prose(data)
    tokenizer = words_of(pair)
    taught = prose_teacher(rows(pair.train, tokenizer), seed)
    few, held = continuations(pair.train, tokenizer, PROMPTS), continuations(pair.test, tokenizer, 200)
    warm = lm(48, 1, tokenizer, seed)
    torch.manual_seed(seed)
    train(SFT(warm), batches(rows(pair.train.subset(range(DOCUMENTS)), tokenizer), seed), WARM)

    def arm(lmbda: float | None) -> CausalLM:
        student = copy.deepcopy(warm)
        torch.manual_seed(seed)
        made: Method = SFT(student) if lmbda is None else GKD(student, taught, lmbda=lmbda, longest=SAID)
        train(made, batches(few, seed + 1), STEPS, RATE)
        return student

    def judged(student: CausalLM) -> float:
        """Nats a word that the teacher gives to what the student writes after held-out prompts."""
        torch.manual_seed(seed)
        return sequence_nll(taught, answers(student, held.take(torch.arange(len(held))), longest=SAID))

    data_answers, own_answers = arm(0.0), arm(1.0)
    return Result(
        metric="loss on held-out continuations, nats a word",
        baseline=nll(data_answers, held),
        method=nll(own_answers, held),
        higher_is_better=False,
        versus="the same steps on the data's continuations",
        extra={
            "text alone": nll(arm(None), held),
            "teacher": nll(taught, held),
            "teacher's loss on what lmbda 0 writes": judged(data_answers),
            "teacher's loss on what lmbda 1 writes": judged(own_answers),
        },
    )
