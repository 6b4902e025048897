"""Whether the prompt makes the teacher student-friendly, and what that does for the student."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from evidence._language import batches, lm, nll, prose, prose_teacher, rows, train, words_of
from evidence.language.gkd import continuations
from limbeck import Method
from limbeck.losses.vocabulary import ReverseKL, token_loss
from limbeck.methods.language._shared import answers
from limbeck.methods.language.gkd import GKD
from limbeck.methods.language.promptkd_lm import PromptKDLM
from limbeck.methods.language.sft import SFT
from limbeck.models.causal_lm import CausalLM
from limbeck.run.evidence import Result

CLAIM = (
    "After PromptKD the prompted teacher is nearer to its student, in KL(teacher || student) on the student's answers "
    "to held-out prompts, than the same teacher without the prompt."
)
DOCUMENTS, PROMPTS, WARM, STEPS, RATE, SAID = 150, 60, 100, 60, 2e-3, 12


def evidence(seed: int, data: Path | None = None) -> Result:
    """One student and one teacher in the comparison; the frozen teacher's own student is beside it."""
    pair = prose(data)
    tokenizer = words_of(pair)
    taught = prose_teacher(rows(pair.train, tokenizer), seed)
    few, held = continuations(pair.train, tokenizer, PROMPTS), continuations(pair.test, tokenizer, 50)
    warm = lm(32, 1, tokenizer, seed)
    torch.manual_seed(seed)
    train(SFT(warm), batches(rows(pair.train.subset(range(DOCUMENTS)), tokenizer), seed), WARM)

    def arm(prompted: bool) -> Method:
        student = copy.deepcopy(warm)
        torch.manual_seed(seed)
        made: Method = (
            PromptKDLM(student, taught, longest=SAID) if prompted else GKD(student, taught, beta=1.0, longest=SAID)
        )
        return train(made, batches(few, seed + 1), STEPS, RATE)

    def said(student: CausalLM) -> object:
        torch.manual_seed(seed)
        return answers(student, held.take(torch.arange(len(held))), longest=SAID)

    method, frozen = arm(True), arm(False)
    assert isinstance(method, PromptKDLM)
    batch = said(method.student)
    with torch.no_grad():
        q = method.student(batch)
        far, near = (
            float(token_loss(ReverseKL(), q, p, batch.weight).total) for p in (taught(batch), method.prompted(batch))
        )
    return Result(
        metric="KL(teacher || student) on the student's answers, nats a word",
        baseline=far,
        method=near,
        higher_is_better=False,
        versus="the teacher without its prompt",
        extra={
            "held-out loss, PromptKD": nll(method.student, held),
            "held-out loss, frozen teacher": nll(frozen.student, held),
        },
    )
