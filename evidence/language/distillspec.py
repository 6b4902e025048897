"""Draft models for one target: the chance that it accepts their words, after prompts that nobody saw.

A second look. The first form (60 prompts, 60 steps on own continuations of twelve words, judged by one run of the
sampler over 50 prompts) was recorded on seeds 100 to 104: inconclusive, +0.04 words a block [-0.04, 0.13]. It was weak
by design: one run of the sampler is off by about as much, while the chance of acceptance is a sum that can be taken
exactly, and the drafts had hardly begun to learn. Here the draft, its prompts and its continuations are those of the
other experiments that go on from a supervised student, the chance is exact, and the seeds are ones that neither used.
"""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._continuing import SAID, start
from limbeck import Method
from limbeck.data.tokens import prompts
from limbeck.methods.language._shared import answers
from limbeck.methods.language.distillspec import DistillSpec
from limbeck.methods.language.sft import SFT
from limbeck.models.causal_lm import CausalLM
from limbeck.models.speculative import acceptance, speculate
from limbeck.run.evidence import Result

CLAIM = (
    "A draft that goes on from supervised training with forward KL on its own continuations (DistillSpec) has its "
    "words accepted more often, at temperature 1, than one that goes on with supervised training."
)
STEPS, GAMMA = 150, 3


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same start, prompts, order, steps and optimiser in every arm; every draft serves the same target."""
    world = start(seed, data)
    torch.manual_seed(seed)
    asked = world.held.take(torch.arange(len(world.held)))
    said = answers(world.teacher, asked, longest=SAID)

    def arm(own: float | None) -> CausalLM:
        draft = world.student()
        made: Method = SFT(draft) if own is None else DistillSpec(draft, world.teacher, own=own, longest=SAID)
        world.train(made, STEPS)
        return draft

    def efficiency(draft: CausalLM) -> float:
        torch.manual_seed(seed)
        ids, mask = prompts(asked, world.teacher.pad)
        return speculate(world.teacher, draft, ids, mask, gamma=GAMMA, longest=SAID).block_efficiency

    text, same, own = arm(None), arm(0.0), arm(1.0)
    return Result(
        metric="chance that a word is accepted, on what the target says, %",
        baseline=100 * acceptance(world.teacher, text, said),
        method=100 * acceptance(world.teacher, own, said),
        higher_is_better=True,
        versus="a draft with as many more steps on the text",
        extra={
            "with the target's distributions on the text": 100 * acceptance(world.teacher, same, said),
            f"words a block of {GAMMA}, text": efficiency(text),
            f"words a block of {GAMMA}, own continuations": efficiency(own),
        },
    )
