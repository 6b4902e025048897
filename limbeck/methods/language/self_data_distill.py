"""Self-data distillation for recovering quality in pruned large language models (Thangarasa, Venkatesh, Lasby,
Sinnadurai & Lie, 2024). https://arxiv.org/abs/2410.09982

    d(l, n) = 1/N sum_i 1/pi arccos( <h_l, h_{l+n}> / (|h_l| |h_{l+n}|) ),  l* = argmin_l d(l, n)     (prune)
    y~ ~ p_whole( . | request(x, y) ),   y' = y~ if Extract(y~) = Extract(y), else y                  (rewrite, select)
    L = - 1/N sum_t log q(y'_t | x, y'_<t)                                                            (heal, by LoRA)

Before it is pruned the network says the fine-tuning answers in its own words, so that healing does not move it away
from what it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from itertools import islice
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, NonNegative, Positive, Setting
from limbeck.data.tokens import Row, TokenBatches, Tokens, TokenSet, left_padded
from limbeck.errors import InputError
from limbeck.losses.vocabulary import word_log_probs
from limbeck.methods.language._shared import mean, original
from limbeck.models.causal_lm import CausalLM
from limbeck.models.surgery import least_important_run, lora, merge, truncate

CARD = Card(
    key="self_data_distill",
    title="Self-Data Distillation for Recovering Quality in Pruned Large Language Models",
    authors="Vithursan Thangarasa, Ganesh Venkatesh, Mike Lasby, Nish Sinnadurai, Sean Lie",
    year=2024,
    url="https://arxiv.org/abs/2410.09982",
    family="language",
    summary="A model loses its least important blocks and is healed on the training answers as it says them itself.",
    modality="text",
    teacher="frozen",
    signal="labels",
    needs=("text", "weights"),
    loop="pipeline",
    fidelity="reconstruction",
    notes="Of the run's student only the number of blocks is used. Assumed: rank, alpha, the sampling temperature, the "
    "words of the request. Merging two healed networks by SLERP is left out: a run has one data set. Rewriting costs "
    "one generation a training row, once.",
)
CALIBRATION = 16  # batches that importance is measured on
NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")


def agrees(said: str, reference: str, rule: str) -> bool:
    """Whether a rewritten answer may stand for the reference.

    ``number``: the last number of both is the same, or the reference has none. ``contains``: the reference is a part of
    it. ``any``: it is not empty.
    """
    if not said.strip():
        return False
    if rule == "contains":
        return reference.strip() in said
    wanted = NUMBER.findall(reference)
    return rule == "any" or not wanted or NUMBER.findall(said)[-1:] == wanted[-1:]


class SelfDataDistill(Method):
    """Next-word cross-entropy on selected answers, for the adapters of a pruned network."""

    student: nn.Module
    _: KW_ONLY
    blocks: Annotated[int, Ge(0)] = 0
    """n, consecutive blocks to delete; 0: down to as many as the run's student has. Paper: 6 of 32."""
    targets: Literal["self", "data"] = "self"
    """Heal on rewritten answers, or on the data's own: the paper's baseline."""
    request: str = "{prompt}{answer}\n\nThe same answer in your own words:\n"
    """What the whole network is asked, with {prompt} and {answer}; "{prompt}" alone: it answers by itself."""
    select: Literal["number", "contains", "any"] = "number"
    """Which rewritten answers are taken: with the same last number, with the reference in them, or all."""
    sample_tau: NonNegative = 0.9
    """Temperature of rewriting; 0 is greedy."""
    longest: Count = 256
    """Words of a rewritten answer at most; one that is not finished by then is not taken."""
    rank: Count = 8
    """r of LoRA, on all linear layers of the blocks."""
    lora_alpha: Positive = 16.0
    """The adapters' scale is lora_alpha / rank."""

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        return {"ce": -mean(word_log_probs(self.student(batch), batch.y), batch)}

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Prune, rewrite the training answers, heal by adapters, and add these to the weights."""
        whole, data = original(setting), setting.data
        if not isinstance(data, TokenBatches):
            raise InputError("data", type(data).__name__, "cannot be rewritten; give TokenBatches")
        n = values.get("blocks", cls.blocks) or whole.depth - setting.student().depth
        gone = least_important_run(whole, islice(data.plain(data.batch), CALIBRATION), n) if n else range(0)
        method = cls(truncate(whole, [k for k in range(whole.depth) if k not in gone]), **values)
        if method.targets == "self":
            data = data.with_data(method.rewritten(whole, data.dataset, data.batch, data.seed))
        method.student = lora(method.student, method.rank, alpha=method.lora_alpha)
        setting.fit(method, data=data)
        return merge(method.student)

    def rewritten(self, whole: CausalLM, data: TokenSet, batch: int, seed: int) -> TokenSet:
        """The training rows, their answers as the whole network says them where that agrees with the reference."""
        rows = list[Row]()
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # so that a run which is taken up again learns from the same answers
            for begin in range(0, len(data), batch):
                rows += self.rewrite(whole, data.rows[begin : begin + batch], data.context)
        return TokenSet(rows, data.text, data.tokenizer, data.context)

    def rewrite(self, whole: CausalLM, rows: Sequence[Row], context: int) -> list[Row]:
        """Some rows: the prompt of each with a new answer and EOS, or the row as it was."""
        words, eos = whole.tokenizer, whole.eos
        starts = [row.learn.index(True, 1) for row in rows]
        if any(max(row.segment) > 1 for row in rows):
            raise InputError("pack", True, "leaves no prompts to answer again; use --no-pack")
        known = [words.decode(row.ids[:k]) for row, k in zip(rows, starts, strict=True)]
        wanted = [words.decode(row.ids[k:], skip_special_tokens=True) for row, k in zip(rows, starts, strict=True)]
        asked = [self.request.format(prompt=x, answer=y) for x, y in zip(known, wanted, strict=True)]
        ids, mask = left_padded([words(text, add_special_tokens=False).input_ids for text in asked], whole.pad)
        room = min(self.longest, whole.context - ids.shape[1])
        if room < 1:
            return list(rows)
        device = whole.device
        said = whole.generate(ids.to(device), mask.to(device), longest=room, tau=self.sample_tau).tolist()
        made = list[Row]()
        for row, k, reference, answer in zip(rows, starts, wanted, said, strict=True):
            new = answer[: answer.index(eos) + 1] if eos in answer else []
            fits = 1 < len(new) <= context - k
            if fits and agrees(words.decode(new, skip_special_tokens=True), reference, self.select):
                whole_row = row.ids[:k] + new
                learn = [False] * k + [True] * len(new)
                row = Row(whole_row, learn, [1] * len(whole_row), [-1] * len(whole_row))
            made.append(row)
        return made
