"""Rows and batches of tokens: shifted once, here; masks, prompts, answers.

``y[:, t]`` is the word that follows ``x[:, t]`` where it is to be learnt, and ``IGNORE`` elsewhere. What a network says
at position t is compared with ``y[:, t]`` and with what a teacher says at position t: nobody shifts anything again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor

from limbeck.core.modules import each_of
from limbeck.data.stream import Stream
from limbeck.data.text import TextSet
from limbeck.errors import InputError
from limbeck.losses.signals import IGNORE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["IGNORE", "INSIDE", "TokenBatches", "TokenSet", "Tokens", "continued", "left_padded", "prompts"]

INSIDE = -2


class Tokens(NamedTuple):
    """One batch of B rows of T tokens, padded at the right.

    Args:
        x: (B, T) int64 token ids.
        y: (B, T) int64, the word that follows, where it is to be learnt; else ``IGNORE``. Already shifted.
        segment: (B, T) int64: which document of a packed row a token belongs to, from 1; 0 is padding.
        index: (B,) int64, the row in the training set; -1 for rows that were generated.
        key: (B,) int64, a hash of the row's tokens, by which stored signals are found; 0 for rows without.
        ends: (B, T) int64, the UTF-8 byte of the document's text after the token's last; -1 for special tokens and
            padding; ``INSIDE`` for a token that ends within a character, at a byte that its tokenizer does not tell.
            Only where two tokenizers meet.
        view: the same documents in the teacher's own tokens where those differ.
    """

    x: Tensor
    y: Tensor
    segment: Tensor
    index: Tensor
    key: Tensor
    ends: Tensor | None = None
    view: Tokens | None = None

    @property
    def mask(self) -> Tensor:
        """(B, T) bool: where a word is to be learnt."""
        return self.y != IGNORE

    @property
    def weight(self) -> Tensor:
        """(B, T) float32: 1 / (number of words to learn) where one is; a sum under it is the mean over words, those of
        all processes in a step of several (:func:`limbeck.core.modules.each_of`)."""
        return each_of(self.mask)

    @property
    def teacher_view(self) -> Tokens:
        """What the teacher reads: ``view`` where there is one, else the batch itself."""
        return self if self.view is None else self.view

    @property
    def packed(self) -> bool:
        """Whether a row holds more than one document."""
        return bool((self.segment > 1).any())

    def rows(self, keep: Tensor) -> Tokens:
        """Some rows, by a mask or by numbers, which may repeat; without bytes and view."""
        return Tokens(*(part[keep.to(part.device)] for part in self[:5]))

    def to(self, device: torch.device | str) -> Tokens:
        """The same batch on a device."""
        moved = [part.to(device, non_blocking=True) for part in self[:5]]
        ends = None if self.ends is None else self.ends.to(device, non_blocking=True)
        return Tokens(*moved, ends, None if self.view is None else self.view.to(device))


class Row(NamedTuple):
    """A row before it is padded: ids, whether each is to be learnt, its document, its last byte."""

    ids: list[int]
    learn: list[bool]
    segment: list[int]
    ends: list[int]

    @property
    def key(self) -> int:
        """A hash of ids and documents: the same in every order, subset and process."""
        said = torch.tensor([self.ids, self.segment], dtype=torch.int64).numpy().tobytes()
        return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "little") >> 1


@dataclass(frozen=True, eq=False)
class TokenSet:
    """Tokenised rows.

    Args:
        rows: what :func:`limbeck.data.tokenising.tokenise` made.
        text: what they were made from.
        tokenizer: what made them.
        context: the longest row.
        domains: what kind of text each row is, one a row; empty when all are of one.
    """

    rows: Sequence[Row]
    text: TextSet
    tokenizer: PreTrainedTokenizerBase
    context: int
    domains: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def keys(self) -> Tensor:
        """(N,) int64, every row's hash."""
        return torch.tensor([row.key for row in self.rows], dtype=torch.int64)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all rows in their order, masks and domains included."""
        learnt = torch.tensor([flag for row in self.rows for flag in row.learn], dtype=torch.uint8)
        domains = repr(self.domains).encode() if self.domains else b""
        return hashlib.sha256(self.keys.numpy().tobytes() + learnt.numpy().tobytes() + domains).hexdigest()[:16]

    @property
    def words(self) -> int:
        """How many tokens are to be learnt."""
        return sum(
            learnt and here == before
            for row in self.rows
            for learnt, here, before in zip(row.learn[1:], row.segment[1:], row.segment)
        )

    def take(self, index: Tensor) -> Tokens:
        """Some rows as a batch."""
        rows = [self.rows[int(k)] for k in index]
        pad = self.tokenizer.pad_token_id
        assert isinstance(pad, int)
        batch = padded(rows, pad)
        return batch._replace(index=index, key=self.keys[index])

    def subset(self, index: Sequence[int]) -> TokenSet:
        """Some rows, in the order given."""
        domains = tuple(self.domains[k] for k in index) if self.domains else ()
        return TokenSet([self.rows[k] for k in index], self.text, self.tokenizer, self.context, domains)


class TokenBatches(Stream[Tokens]):
    """The batches of a set of rows; every ``iter`` is the next epoch (:class:`limbeck.data.stream.Stream`).

    Args:
        data: the rows.
        batch: rows a batch.
        seed: of the order.
        shuffle: a new order every epoch; otherwise the rows' own.
        drop_last: leave out a last batch that is not full.
        view: the same documents, row by row, in the teacher's tokens.

    Raises:
        InputError: for sizes that cannot be, and for a view of other rows.
    """

    def __init__(
        self,
        data: TokenSet,
        batch: int = 16,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        view: TokenSet | None = None,
    ) -> None:
        super().__init__(len(data), batch, seed=seed, shuffle=shuffle, drop_last=drop_last)
        if view is not None and len(view) != len(data):
            raise InputError("view", len(view), f"rows cannot be the {len(data)} rows of the student; do not pack them")
        self.dataset, self.view = data, view

    def make(self, index: Tensor) -> Tokens:
        batch = self.dataset.take(index)
        return batch if self.view is None else batch._replace(view=self.view.take(index))

    def plain(self, batch: int = 16) -> TokenBatches:
        """The same rows in their own order: for evaluation."""
        return TokenBatches(self.dataset, batch, shuffle=False, view=self.view)

    def with_data(self, data: TokenSet, view: TokenSet | None = None) -> Self:
        """The same settings on other rows, at the first epoch."""
        return type(self)(
            data, self.batch, seed=self.seed, shuffle=self.shuffle, drop_last=self.drop_last, view=view
        )  # fmt: skip


def padded(rows: Sequence[Row], pad: int) -> Tokens:
    """Rows of several lengths as one batch, padded at the right; the shift of x to y happens here."""
    longest = max(len(row.ids) for row in rows)
    x, segment = torch.full((len(rows), longest), pad), torch.zeros(len(rows), longest, dtype=torch.int64)
    y, ends = torch.full((len(rows), longest), IGNORE), torch.full((len(rows), longest), -1)
    for k, row in enumerate(rows):
        n = len(row.ids)
        x[k, :n], segment[k, :n] = torch.tensor(row.ids), torch.tensor(row.segment)
        ends[k, :n] = torch.tensor(row.ends)
        follows = torch.tensor(row.learn[1:], dtype=torch.bool) & (segment[k, 1:n] == segment[k, : n - 1])
        y[k, : n - 1] = torch.where(follows, x[k, 1:n], IGNORE)
    none = torch.zeros(len(rows), dtype=torch.int64)
    offsets = ends if any(end >= 0 for row in rows for end in row.ends) else None
    return Tokens(x, y, segment, none - 1, none, offsets)


def prompts(batch: Tokens, pad: int) -> tuple[Tensor, Tensor]:
    """What comes before the first word to learn of every row, padded at the *left*, as generation wants it.

    Returns:
        ids (B, P) and a mask (B, P), 1 where a token is.

    Raises:
        InputError: when rows are packed.
    """
    if batch.packed:
        raise InputError("pack", True, "leaves no prompts to continue; a method that generates needs --no-pack")
    first = torch.where(batch.mask.any(1), batch.mask.int().argmax(1) + 1, (batch.segment > 0).sum(1))
    ids, mask = left_padded([row[:n] for row, n in zip(batch.x.tolist(), first.tolist(), strict=True)], pad)
    return ids.to(batch.x.device), mask.to(batch.x.device)


def left_padded(texts: Sequence[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """(B, P) int64 ids that end together, and a mask, 1 where a token is."""
    longest = max(map(len, texts))
    ids = torch.tensor([[pad] * (longest - len(text)) + text for text in texts])
    return ids, torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts])


def continued(ids: Tensor, mask: Tensor, answer: Tensor, *, eos: int, pad: int) -> Tokens:
    """Prompts and what a network answered, as a batch in which the answer, its first EOS included, is to be learnt.

    Args:
        ids: (B, P) prompts padded at the left.
        mask: (B, P), 1 where a token is.
        answer: (B, N) generated ids; what follows an EOS is ignored.
        eos: the end-of-text token.
        pad: the padding token; may be ``eos``.
    """
    rows = list[Row]()
    for prompt, known, said in zip(ids, mask, answer, strict=True):
        before, after = prompt[known.bool()].tolist(), said.tolist()
        after = after[: after.index(eos) + 1] if eos in after else after
        whole = before + after
        rows.append(Row(whole, [False] * len(before) + [True] * len(after), [1] * len(whole), [-1] * len(whole)))
    return padded(rows, pad).to(ids.device)
