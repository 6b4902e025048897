"""How many bytes of text each word of a tokenizer stands for: by them, losses of different tokenizers compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["word_bytes"]

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece spells a space


def word_bytes(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """(V,) int64: the UTF-8 bytes of every word; 0 for special tokens.

    Byte-level tokenizers spell every byte with one letter of an alphabet of 256, SentencePiece a byte without a letter
    as ``<0x0A>``; everywhere else a word is its own text.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    spelt: list[Any] = list(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    special, alphabet = set(tokenizer.all_special_ids), set(ByteLevel.alphabet())
    plain = [word for k, word in enumerate(spelt) if k not in special and isinstance(word, str)]
    letters = set("".join(word for word in plain if word.isascii() or word[:1] in alphabet))
    byte_level = len(letters & alphabet) >= 200 and any(word.startswith("Ġ") for word in plain)
    sizes = [0 if k in special else _size(word, alphabet, byte_level) for k, word in enumerate(spelt)]
    return torch.tensor(sizes)


def _size(word: object, alphabet: set[str], byte_level: bool) -> int:
    if not isinstance(word, str):
        return 0
    if byte_level:  # words added by hand are spelt as they are
        return len(word) if set(word) <= alphabet else len(word.encode())
    if len(word) == 6 and word.startswith("<0x") and word.endswith(">"):
        return 1
    return len(word.replace(SPACE, " ").encode())
