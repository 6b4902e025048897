"""Draft models for one target, measured with the exact speculative sampler on held-out prompts."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from evidence._language import batches, lm, prose, prose_teacher, rows, train, words_of
from evidence.language.gkd import continuations
from limbeck import Method
from limbeck.data.tokens import TokenSet, prompts
from limbeck.methods.language.distillspec import DistillSpec
from limbeck.methods.language.sft import SFT
from limbeck.models.causal_lm import CausalLM
from limbeck.models.speculative import Speculation, speculate
from limbeck.run.evidence import Result

CLAIM = (
    "A draft that goes on from supervised training with forward KL on its own continuations (DistillSpec) gets more "
    "words through a block of speculative sampling at temperature 1 than one that goes on with supervised training."
)
DOCUMENTS, PROMPTS, WARM, STEPS, RATE, SAID, GAMMA = 150, 60, 100, 60, 2e-3, 12, 3


def written(target: CausalLM, draft: CausalLM, held: TokenSet, seed: int) -> Speculation:
    """Answers of the target to held-out prompts, with the draft's help."""
    torch.manual_seed(seed)
    ids, mask = prompts(held.take(torch.arange(len(held))), target.pad)
    return speculate(target, draft, ids, mask, gamma=GAMMA, longest=24)


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same start, prompts, order, steps and optimiser in every arm; every draft serves the same target."""
    pair = prose(data)
    tokenizer = words_of(pair)
    target = prose_teacher(rows(pair.train, tokenizer), seed)
    few, held = continuations(pair.train, tokenizer, PROMPTS), continuations(pair.test, tokenizer, 50)
    warm = lm(32, 1, tokenizer, seed)
    torch.manual_seed(seed)
    train(SFT(warm), batches(rows(pair.train.subset(range(DOCUMENTS)), tokenizer), seed), WARM)

    def arm(own: float | None) -> Speculation:
        draft = copy.deepcopy(warm)
        torch.manual_seed(seed)
        made: Method = SFT(draft) if own is None else DistillSpec(draft, target, own=own, longest=SAID)
        train(made, batches(few, seed + 1), STEPS, RATE)
        return written(target, draft, held, seed)

    text, same, own = arm(None), arm(0.0), arm(1.0)
    return Result(
        metric=f"words a block of {GAMMA} drafted ones",
        baseline=text.block_efficiency,
        method=own.block_efficiency,
        higher_is_better=True,
        versus="a draft with as many more steps on the text",
        extra={
            "with the target's distributions on the text": same.block_efficiency,
            "acceptance, text": text.acceptance_rate,
            "acceptance, own continuations": own.acceptance_rate,
        },
    )
