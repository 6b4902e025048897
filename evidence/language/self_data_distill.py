"""Healing a pruned network on one task: on foreign answers, or on the same answers as it says them itself."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from evidence._language import batches, distilled, lm, rows, teacher
from limbeck.data.text import Span, TextSet
from limbeck.data.tokens import TokenSet, prompts
from limbeck.methods.language.self_data_distill import NUMBER, SelfDataDistill
from limbeck.models.causal_lm import CausalLM
from limbeck.models.surgery import least_important_run, truncate
from limbeck.models.tiny_lm import byte_tokenizer
from limbeck.run.evidence import Result

CLAIM = (
    "A Llama that sorts and reverses digits loses a block and is healed by LoRA on sorting alone, with answers in "
    "another style; over both tasks it gives more right answers when those are first rewritten by itself."
)
ROWS, SHOTS, STEPS, RATE = 3_000, 300, 100, 1e-3


def texts(seed: int, style: str, tasks: str, first: int, count: int) -> TextSet:
    """``"3140>"`` asks for the digits in order, ``"3140<"`` for them reversed."""
    drawn = random.Random(seed).sample(range(10**4), first + count)[first:]
    documents = list[tuple[Span, ...]]()
    for number, asked in enumerate(f"{k:04d}" for k in drawn):
        task = tasks[number % len(tasks)]
        answer = "".join(sorted(asked)) if task == ">" else asked[::-1]
        documents.append((Span(asked + task, learn=False), Span(style.format(answer))))
    return TextSet(tuple(documents), "digits")


@torch.no_grad()
def right(model: CausalLM, data: TokenSet) -> float:
    """Greedy answers whose last number is the reference's, %, whatever is said around it."""
    found = 0
    for batch in batches(data, 0, 64).plain(64):
        ids, mask = prompts(batch, model.pad)
        said = model.tokenizer.batch_decode(model.generate(ids, mask, longest=20, tau=0.0), skip_special_tokens=True)
        wanted = model.tokenizer.batch_decode([row[row != -100] for row in batch.y], skip_special_tokens=True)
        found += sum(NUMBER.findall(a)[-1:] == [b] for a, b in zip(said, wanted, strict=True))
    return 100.0 * found / len(data)


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same pruned network, prompts, order, steps and optimiser in both arms."""
    tokenizer = byte_tokenizer()
    whole = teacher(64, 4, rows(texts(seed, "{}", "><", 0, ROWS), tokenizer), seed, steps=400, batch=64, lr=5e-3)
    foreign = rows(texts(seed, "so in order: {}", ">", ROWS, SHOTS), tokenizer)
    held = rows(texts(seed, "{}", "><", ROWS + SHOTS, 400), tokenizer)

    def arm(targets: str) -> float:
        torch.manual_seed(seed)
        made = distilled(
            SelfDataDistill, lambda: lm(64, 3, tokenizer, seed), whole, batches(foreign, seed, 32), STEPS, RATE,
            targets=targets, request="{prompt}", longest=20,
        )  # fmt: skip
        return right(made, held)

    gone = least_important_run(whole, batches(foreign, seed, 32).plain(32), 1)
    pruned = truncate(whole, [k for k in range(4) if k not in gone])
    return Result(
        metric="right answers over both tasks, %",
        baseline=arm("data"),
        method=arm("self"),
        higher_is_better=True,
        versus="the same healing on the data's own answers",
        extra={"whole": right(whole, held), "pruned, not healed": right(pruned, held), "block": float(gone[0])},
    )
