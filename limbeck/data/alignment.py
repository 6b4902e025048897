"""Two tokenizers on one text: the shortest spans that both write as whole tokens, by bytes.

A span runs from one byte at which a token of the student and a token of the teacher both end to the next such byte.
Characters would not do: tokens of bytes end inside them. The end-of-text token has no bytes; it is a span of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from limbeck.data.tokens import IGNORE, Tokens
from limbeck.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Side", "Spans", "align", "joined", "opens_word"]

SPECIAL = -1
OPENING = ("Ġ", "Ċ", "ĉ", "▁", " ", "\n", "\t", "<0x20>", "<0x0A>", "<0x09>")
"""How tokens begin that begin with a space, a line break or a tab: in byte-level, SentencePiece and plain spelling."""


class Side(NamedTuple):
    """The N spans in the tokens of one network."""

    span: Tensor
    """(B, T) int64: the span whose token the position is to predict; -1 where that belongs to none."""
    last: Tensor
    """(N,) int64: where, among the B T positions laid end to end, the span's last token is read."""

    def total(self, values: Tensor, count: int) -> Tensor:
        """Sums over each of ``count`` spans of values (B, T), such as log-probabilities of the next words: -> (N,)."""
        kept = self.span >= 0
        return values.new_zeros(count).index_add(0, self.span[kept], values[kept])


class Spans(NamedTuple):
    """The spans of a batch, row by row, that both networks learn whole."""

    student: Side
    teacher: Side
    follows: Tensor
    """(N,) bool: whether the span goes on where the one before it ended."""
    closed: Tensor
    """(N,) bool: whether nothing that comes next could make the span another one: an end of text; all, where the
    tokenizers are one."""

    def __len__(self) -> int:
        return len(self.follows)


def align(batch: Tokens) -> Spans:
    """The spans of a batch and of its ``teacher_view``.

    Only spans all of whose tokens are to be learnt, by both, are there: what only one of the two has within its context
    is left out, and so is what begins a row, which nothing predicts. The end of a text is a span where both have it.
    Without a view, the tokenizers being one, every word to learn is a span.

    Args:
        batch: its rows and its view's are the same documents, with the bytes at which tokens end.

    Raises:
        InputError: for packed rows, for batches without these bytes, and for rows that are not the same text.
    """
    view = batch.view
    if view is None:
        return _one_by_one(batch)
    if batch.packed or view.packed:
        raise InputError("pack", True, "rows have no common bytes; two tokenizers need --no-pack")
    if batch.ends is None or view.ends is None:
        raise InputError("offsets", False, "leaves no bytes to align two tokenizers by; tokenise with offsets=True")
    _check_same_text(batch, view)
    theirs, ours = _boundaries(view), _boundaries(batch)
    common = [_isin(a, b) for a, b in ((ours, theirs), (theirs, ours))]
    slots = int(common[0].sum(1).max()) + 1  # one more for the end of text
    numbers = [_numbers(side, ends, shared) for side, ends, shared in zip((batch, view), (ours, theirs), common)]
    whole = [_whole(side, number, slots) for side, number in zip((batch, view), numbers)]
    ended = common[0].sum(1)[:, None] == torch.arange(slots, device=batch.x.device)  # (B, slots): the end of text's
    kept = whole[0] & whole[1] & (~ended | (_finished(batch, numbers[0]) & _finished(view, numbers[1]))[:, None])
    rank = torch.where(kept, kept.flatten().cumsum(0).view_as(kept) - 1, -1)
    before = torch.nn.functional.pad(kept, (1, 0))[:, :-1]
    sides = [_side(number, rank) for number in numbers]
    return Spans(sides[0], sides[1], before[kept], ended[kept])


def joined(follows: Tensor, closing: Tensor) -> Tensor:
    """Numbers of chunks for spans (N,): one runs up to the span that closes it; -1 for spans of one that never closes.

    Args:
        follows: (N,) bool, whether a span goes on where the one before ended; a chunk has no gap.
        closing: (N,) bool, whether it may end a chunk.
    """
    begins = ~follows | torch.nn.functional.pad(closing, (1, 0))[:-1]
    number = begins.cumsum(0) - 1
    whole = torch.zeros_like(begins).index_fill(
        0, number[closing], True
    )  # a chunk's number is at most its first span's
    return torch.where(whole, whole.cumsum(0) - 1, -1)[number]


def opens_word(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """(V,) bool: the words that begin with a space, a line break or a tab, and special ones such as the end of text."""
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = set(tokenizer.all_special_ids)
    return torch.tensor([k in special or bool(word and word.startswith(OPENING)) for k, word in enumerate(words)])


def _one_by_one(batch: Tokens) -> Spans:
    mask = batch.mask
    span = torch.where(mask, mask.flatten().cumsum(0).view_as(mask) - 1, -1)
    side = Side(span, mask.flatten().nonzero()[:, 0] + 1)
    before = torch.nn.functional.pad(mask, (1, 0))[:, :-1]
    return Spans(side, side, before[mask], torch.ones_like(before[mask]))


def _boundaries(side: Tokens) -> Tensor:
    """(B, T): the byte at which a token ends where that is one, else -1; of tokens that end at one byte, the last's."""
    assert side.ends is not None
    ends = side.ends.clamp_min(-1)
    after = torch.nn.functional.pad(ends, (0, 1), value=-1)[:, 1:]
    return ends.masked_fill(ends == after, -1)


def _isin(a: Tensor, b: Tensor) -> Tensor:
    """(B, T): which bytes of each row are bytes of the other's."""
    wide = int(max(a.max(), b.max())) + 2
    row = torch.arange(len(a), device=a.device)[:, None] * wide
    return (a >= 0) & torch.isin(a + row, (b + row)[b >= 0])


def _numbers(side: Tokens, ends: Tensor, common: Tensor) -> Tensor:
    """(B, T): how many common bytes a token lies behind, which both sides count alike; -1 for what is no text."""
    behind = common.int().cumsum(1) - common.int()
    assert side.ends is not None
    opening = (side.ends == SPECIAL) & ((side.ends != SPECIAL).int().cumsum(1) == 0)  # a BOS
    return behind.masked_fill((side.segment == 0) | opening, -1)


def _whole(side: Tokens, number: Tensor, slots: int) -> Tensor:
    """(B, slots): whether a span has tokens and all of them are to be learnt."""
    learnt = torch.nn.functional.pad(side.y != IGNORE, (1, 0))[:, :-1]  # of a token, not of the position before it
    found = torch.zeros((2, len(number), slots + 1), dtype=torch.int64, device=number.device)
    found[0].scatter_add_(1, number + 1, torch.ones_like(number))
    found[1].scatter_add_(1, number + 1, learnt.long())
    return (found[0] == found[1])[:, 1:] & (found[0] > 0)[:, 1:]


def _finished(side: Tokens, number: Tensor) -> Tensor:
    """(B,): whether behind the last common byte comes a single token without bytes, the end of text."""
    assert side.ends is not None
    behind = number == number.max(1, keepdim=True).values
    return (behind.sum(1) == 1) & ((side.ends == SPECIAL) & behind).any(1)


def _side(number: Tensor, rank: Tensor) -> Side:
    span = torch.where(number >= 0, rank.gather(1, number.clamp_min(0)), -1)  # of each token
    place = torch.arange(span.numel(), device=span.device).view_as(span)
    last = torch.zeros(int(rank.max()) + 1 if rank.numel() else 0, dtype=torch.int64, device=span.device)
    last = last.scatter_reduce(0, span[span >= 0], place[span >= 0], "amax")
    return Side(torch.nn.functional.pad(span, (0, 1), value=-1)[:, 1:], last)


def _check_same_text(batch: Tokens, view: Tokens) -> None:
    """Rows that both reach their end of text must reach it at one byte."""
    if len(batch.x) != len(view.x):
        raise InputError(
            "view", len(view.x), f"rows cannot be the {len(batch.x)} rows of the student; do not pack them"
        )
    (ours, done), (theirs, finished) = _length(batch), _length(view)
    wrong = done & finished & (ours != theirs)
    if bool(wrong.any()):
        row = int(wrong.int().argmax())
        raise InputError(
            "view", int(theirs[row]), f"bytes are not the {int(ours[row])} that the student reads in row {row} of a "
            "batch; tokenise the same documents for both, each in one row",
        )  # fmt: skip


def _length(side: Tokens) -> tuple[Tensor, Tensor]:
    """(B,) the last known byte; (B,) whether an end of text follows."""
    assert side.ends is not None
    size = (side.segment > 0).sum(1, keepdim=True)
    return side.ends.max(1).values, side.ends.gather(1, size - 1)[:, 0] == SPECIAL
