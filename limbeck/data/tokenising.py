"""Documents to rows of tokens: spans apart, BOS and EOS, cut at the context, packed; the byte that a token ends at."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from limbeck.data.text import Document, TextSet
from limbeck.data.tokens import INSIDE, Row, TokenSet
from limbeck.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["tokenise"]


def tokenise(
    text: TextSet,
    tokenizer: PreTrainedTokenizerBase,
    context: int,
    *,
    pack: bool = False,
    long: Literal["refuse", "truncate", "drop"] = "refuse",
    offsets: bool = False,
) -> TokenSet:
    """Documents to rows. A document ends with the tokenizer's EOS, which is learnt, and begins with its BOS where the
    tokenizer itself would put one.

    Args:
        text: the documents.
        tokenizer: with an EOS; one without a padding token pads with EOS.
        context: the most tokens of a row.
        pack: fill rows with several documents, which do not see each other; what is all to be learnt (plain text) is
            cut where a row is full, a document with a prompt never is. A row holds documents of one domain.
        long: what happens to a document with a prompt that is longer than the context. Plain text is always cut.
        offsets: keep the byte at which every token ends (fast tokenizers only).

    Raises:
        InputError: for a document that is too long, has nothing to learn, or a tokenizer without EOS.
    """
    eos = tokenizer.eos_token_id
    if not isinstance(eos, int):
        raise InputError("tokenizer", str(tokenizer.name_or_path), "has no end-of-text token; set its eos_token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    bos = _bos(tokenizer)
    pieces = list[tuple[str, Row]]()
    for number, document in enumerate(text.documents):
        row = _encoded(document, tokenizer, bos, eos, offsets)
        plain = all(span.learn for span in document)
        if len(row.ids) > context and not plain:
            if long == "refuse":
                raise InputError(
                    f"{text.name}, document {number}", len(row.ids), f"tokens are more than the context of {context}; "
                    "raise --context, or choose --long drop or truncate",
                )  # fmt: skip
            if long == "drop":
                continue
            row = _cut(row, 0, context)
        if not any(row.learn[1:]):
            raise InputError(
                f"{text.name}, document {number}",
                document[-1].text[:40],
                "leaves no word to learn; give it a completion",
            )
        domain = text.domains[number] if text.domains else ""
        pieces += [(domain, _cut(row, k, k + context)) for k in range(0, len(row.ids), context)]
    if pack:
        names = dict.fromkeys(domain for domain, _ in pieces)
        apart = {name: [row for domain, row in pieces if domain == name] for name in names}
        pieces = [(name, row) for name, some in apart.items() for row in _packed(some, context)]
    made = [(domain, row) for domain, row in pieces if any(row.learn[1:])]
    if not made:
        raise InputError(text.name, len(text.documents), "documents leave no row to learn from")
    domains = tuple(domain for domain, _ in made) if text.domains else ()
    return TokenSet([row for _, row in made], text, tokenizer, context, domains)


def _bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    bos, start = tokenizer.bos_token_id, tokenizer("a").input_ids[:1]
    return bos if isinstance(bos, int) and start == [bos] else None


def _encoded(document: Document, tokenizer: PreTrainedTokenizerBase, bos: int | None, eos: int, offsets: bool) -> Row:
    """Spans are tokenised apart, so that a mask is exact and a prompt alone has the same tokens at generation."""
    row, passed = Row([], [], [], []), 0
    if bos is not None:
        _extend(row, [bos], False, [-1])
    for span in document:
        made = tokenizer(span.text, add_special_tokens=False, return_offsets_mapping=offsets)
        ids, ends = list(made.input_ids), [-1] * len(made.input_ids)
        if offsets:
            ends = _bytes(span.text, tokenizer.convert_ids_to_tokens(ids), made.offset_mapping, passed)
        _extend(row, ids, span.learn, ends)
        passed += len(span.text.encode())
    if document[-1].close:
        _extend(row, [eos], document[-1].learn, [-1])
    return row


def _bytes(text: str, tokens: Sequence[str], spans: Sequence[tuple[int, int]], before: int) -> list[int]:
    """The byte after every token's last.

    Byte-level tokens are spelt with a letter for each byte, which counts exactly. Elsewhere characters are counted, and
    a token that shares its last one with the next token ends inside it.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    spelt = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    if "".join(tokens) == "".join(piece for piece, _ in spelt):
        return list(accumulate(map(len, tokens), initial=before))[1:]
    reached = list(accumulate((len(character.encode()) for character in text), initial=before))
    begins = [start for start, _ in spans[1:]] + [len(text)]
    return [reached[end] if end <= after else INSIDE for (_, end), after in zip(spans, begins, strict=True)]


def _extend(row: Row, ids: list[int], learn: bool, ends: list[int]) -> None:
    row.ids.extend(ids)
    row.learn.extend([learn] * len(ids))
    row.segment.extend([1] * len(ids))
    row.ends.extend(ends)


def _cut(row: Row, start: int, end: int) -> Row:
    return Row(*(part[start:end] for part in row))


def _packed(pieces: Sequence[Row], context: int) -> list[Row]:
    """In their order; a piece that may be cut (all of it is learnt) fills a row to its end."""
    rows, row, count = list[Row](), Row([], [], [], []), 0
    left = list(pieces)[::-1]
    while left:
        piece, free = left.pop(), context - len(row.ids)
        if len(piece.ids) > free and all(piece.learn) and free > 1:
            left.append(_cut(piece, free, len(piece.ids)))
            piece = _cut(piece, 0, free)
        if len(piece.ids) > free:
            rows.append(row)
            left.append(piece)
            row, count = Row([], [], [], []), 0
            continue
        count += 1
        row.ids.extend(piece.ids)
        row.learn.extend(piece.learn)
        row.segment.extend([count] * len(piece.ids))
        row.ends.extend([-1] * len(piece.ids))  # bytes of several texts have no common count
    return [row for row in [*rows, row] if any(row.learn[1:])]
