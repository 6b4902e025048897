"""What the experiments on text share: data, students and teachers, a recipe, and what is measured.

Teachers are trained once for a seed, a size and a set of rows, and kept in the cache folder (``LIMBECK_CACHE``, by
default ``~/.cache/limbeck``): many experiments learn from the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evidence._shared import fresh, kept
from limbeck import Method, fit
from limbeck.core.method import Setting
from limbeck.core.schedule import Cosine
from limbeck.data.load_text import load_text
from limbeck.data.text import TextPair, TextSet
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import TokenBatches, Tokens, TokenSet, prompts
from limbeck.losses.vocabulary import ForwardKL, token_loss, word_log_probs
from limbeck.methods.language.sft import SFT
from limbeck.models.causal_lm import CausalLM
from limbeck.models.tiny_lm import bpe_tokenizer, byte_tokenizer, llama

__all__ = [
    "batches", "distilled", "exact_match", "kl_to", "lm", "nll", "prose", "prose_teacher", "rows",
    "sequence_nll", "task_teacher", "tasks", "teacher", "train",
    "words_of",
]  # fmt: skip


def prose(data: Path | None) -> TextPair:
    """Plain text to check a claim on: Python's own manual by default."""
    return load_text(str(data) if data is not None else "manual", chars=400)


def tasks(data: Path | None, count: int = 4_000) -> TextPair:
    """Prompts with short answers that can be checked: digits to put in order by default."""
    from limbeck.data.text import sorting

    return load_text(str(data)) if data is not None else sorting(count)


def words_of(pair: TextPair, words: int = 512) -> Any:
    """Byte pairs learnt from the training documents; bytes when ``words`` is 0."""
    if not words:
        return byte_tokenizer()
    return bpe_tokenizer((span.text for document in pair.train.documents for span in document), words)


def rows(text: TextSet, tokenizer: Any, context: int = 64) -> TokenSet:
    """Packed rows of plain text, a row a document where there are prompts."""
    plain = all(len(document) == 1 for document in text.documents)
    return tokenise(text, tokenizer, context, pack=plain, long="truncate")


def batches(data: TokenSet, seed: int, batch: int = 16) -> TokenBatches:
    """Shuffled training batches."""
    return TokenBatches(data, batch, seed=seed, drop_last=len(data) >= batch)


def lm(width: int, depth: int, tokenizer: Any, seed: int) -> CausalLM:
    """A small Llama with fresh weights that depend on the seed alone."""
    return fresh(seed, lambda: llama(width, depth, tokenizer, context=128))


def train(method: Method, data: Any, steps: int, lr: float = 4e-3, clip: float | None = 1.0) -> Method:
    """AdamW with a cosine to zero, gradients clipped at 1: the same recipe for every arm."""
    fit(method, data, partial(torch.optim.AdamW, lr=lr, weight_decay=0.01), steps=steps, lr=Cosine(), clip=clip)
    return method.eval()


def distilled(
    method: type[Method], student: Callable[[], CausalLM], teacher: CausalLM, data: Any, steps: int, lr: float = 4e-3,
    **values: Any,
) -> Any:  # fmt: skip
    """What a method's whole procedure makes, every stage under the recipe."""

    def run(part: Method, *, name: str = "fit", data: Any = data, steps: int = steps) -> None:
        train(part, data, steps, lr)

    return method.distil(Setting(student, [teacher], data, steps, run), values)


def prose_teacher(data: TokenSet, seed: int) -> CausalLM:
    """The teacher of plain text: a Llama of width 96 with two blocks."""
    return teacher(96, 2, data, seed, steps=400)


def task_teacher(data: TokenSet, seed: int) -> CausalLM:
    """The teacher of checkable tasks: a Llama of width 64 with two blocks, right on nearly all of them."""
    return teacher(64, 2, data, seed, steps=500, batch=64, lr=5e-3)


def teacher(
    width: int, depth: int, data: TokenSet, seed: int, steps: int, batch: int = 16, lr: float = 4e-3
) -> CausalLM:
    """A frozen Llama that was trained on these rows, or the same from the cache."""
    model = lm(width, depth, data.tokenizer, 10_000 + seed)
    facts = f"{width} {depth} {data.fingerprint} {len(data.tokenizer)} {seed} {steps} {batch} {lr}"
    return kept(model, facts, seed, lambda model: train(SFT(model), batches(data, seed, batch), steps, lr))


def _held_out(data: TokenSet) -> TokenBatches:
    return TokenBatches(data, 32, shuffle=False)


@torch.no_grad()
def nll(model: CausalLM, data: TokenSet) -> float:
    """Mean negative log-likelihood of the words to learn, nats a word."""
    model.eval()
    total, count = 0.0, 0
    for batch in _held_out(data):
        said = word_log_probs(model(batch), batch.y)
        total, count = total - float(said[batch.mask].sum()), count + int(batch.mask.sum())
    return total / count


@torch.no_grad()
def kl_to(target: CausalLM, model: CausalLM, data: TokenSet) -> float:
    """KL(target || model), nats a word, on the words to learn."""
    model.eval()
    total, count = 0.0, 0
    for batch in _held_out(data):
        found = token_loss(ForwardKL(), target(batch), model(batch), batch.mask.float())
        total, count = total + float(found.total), count + int(batch.mask.sum())
    return total / count


@torch.no_grad()
def exact_match(model: CausalLM, data: TokenSet, longest: int = 8) -> float:
    """Greedy answers that are the document's own, %."""
    model.eval()
    right = 0
    for batch in _held_out(data):
        ids, mask = prompts(batch, model.pad)
        said = model.generate(ids, mask, longest=longest, tau=0.0)
        wanted = [row[row != -100] for row in batch.y]
        right += sum(_begins(answer, want) for answer, want in zip(said, wanted, strict=True))
    return 100.0 * right / len(data)


def _begins(answer: Tensor, wanted: Tensor) -> bool:
    """The wanted words end with EOS, so that beginning with them is being them."""
    return len(answer) >= len(wanted) and bool((answer[: len(wanted)] == wanted).all())


@torch.no_grad()
def sequence_nll(judge: CausalLM, batch: Tokens) -> float:
    """Mean negative log-likelihood, nats a word, that a judge gives to a batch's answers."""
    return -float((batch.weight * word_log_probs(judge(batch), batch.y)).sum())
