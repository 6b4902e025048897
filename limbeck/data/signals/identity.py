"""What a teacher is to a store, and the hashes by which it knows teachers and tokenizers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from limbeck.data.tokens import Tokens
from limbeck.losses.vocabulary import Signal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Teacher", "name_of", "teacher_hash", "tokenizer_hash", "weights_hash"]

PROBES = ("Hello, world!", " the  3.14\n\tdef f(x):", "naïve 東京 🙂")


class Teacher(Protocol):
    """Whatever answers a batch of tokens: a ``CausalLM``, an ensemble, a server."""

    tokenizer: PreTrainedTokenizerBase
    reference: str
    context: int

    @property
    def device(self) -> torch.device:
        """Where it wants its batches."""
        ...

    def __call__(self, batch: Tokens) -> Signal:
        """(B, T) tokens to a signal over (B, T)."""
        ...


def teacher_hash(teacher: Teacher) -> str:
    """Of its weights; of what it calls itself (``fingerprint``) where it has none at hand."""
    named: str | None = getattr(teacher, "fingerprint", None)
    if named is not None:
        return named
    return weights_hash(teacher.state_dict() if isinstance(teacher, nn.Module) else {})


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and numbers."""
    said = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        said.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        said.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return said.hexdigest()[:16]


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of its words, its end of text and how it splits some samples, so that it does not depend on how it is kept."""
    words = sorted(tokenizer.get_vocab().items())
    split = [tokenizer(text, add_special_tokens=False).input_ids for text in PROBES]
    return hashlib.sha256(json.dumps([words, tokenizer.eos_token_id, split]).encode()).hexdigest()[:16]


def name_of(teacher: Teacher) -> str:
    """What messages and manifests call it."""
    return teacher.reference or type(teacher).__name__
