"""GKD's own comparison: the student's answers against the data's, under one teacher and one divergence.

A student that is a poor writer is judged by what it writes: the teacher reads its continuations of held-out beginnings.
"""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._language import batches, lm, prose, prose_teacher, rows, sequence_nll, train, words_of
from limbeck import Method
from limbeck.data.text import TextSet
from limbeck.data.tokens import TokenSet, tokenise
from limbeck.methods.language._shared import answers
from limbeck.methods.language.gkd import GKD
from limbeck.methods.language.sft import SFT
from limbeck.models.causal_lm import CausalLM
from limbeck.run.evidence import Result

CLAIM = (
    "From one supervised student, steps on its own continuations under the teacher's word distributions (GKD, lmbda 1) "
    "lead to continuations that the teacher finds likelier than as many steps on the data's own (lmbda 0)."
)
DOCUMENTS, WARM, STEPS, RATE, ASKED, SAID = 300, 200, 120, 2e-3, 40, 24


def continuations(text: TextSet, tokenizer: object, count: int) -> TokenSet:
    """The first characters of a document as prompt, what follows as completion."""
    documents = [document[0] for document in text.documents if len(document[0].text) > 3 * ASKED][:count]
    cut = tuple(
        (span._replace(text=span.text[:ASKED], learn=False), span._replace(text=span.text[ASKED : 3 * ASKED]))
        for span in documents
    )
    return tokenise(TextSet(cut, text.name), tokenizer, 128)  # type: ignore[arg-type]


def judged(judge: CausalLM, student: CausalLM, held: TokenSet, seed: int) -> float:
    """Nats a word that the teacher gives to sampled continuations of held-out prompts."""
    torch.manual_seed(seed)
    return sequence_nll(judge, answers(student, held.take(torch.arange(len(held))), longest=SAID))


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same supervised student, prompts, order, steps and optimiser in every arm."""
    pair = prose(data)
    tokenizer = words_of(pair)
    taught = prose_teacher(rows(pair.train, tokenizer), seed)
    few = continuations(pair.train, tokenizer, DOCUMENTS)
    held = continuations(pair.test, tokenizer, 100)

    def arm(lmbda: float | None) -> float:
        student = lm(48, 1, tokenizer, seed)
        torch.manual_seed(seed)
        train(SFT(student), batches(few, seed), WARM)
        made: Method = SFT(student) if lmbda is None else GKD(student, taught, lmbda=lmbda, longest=SAID)
        train(made, batches(few, seed + 1), STEPS, RATE)
        return judged(taught, student, held, seed)

    return Result(
        metric="the teacher's loss on the student's continuations, nats a word",
        baseline=arm(0.0),
        method=arm(1.0),
        higher_is_better=False,
        versus="the same steps on the data's continuations",
        extra={"text alone": arm(None)},
    )
