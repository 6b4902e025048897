"""From a run file's text to rows of tokens: for the student, and for a teacher that has other words."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple

from limbeck.core.card import find
from limbeck.data.load_text import load_text
from limbeck.data.text import TextPair, TextSet, cut_text
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import TokenSet
from limbeck.errors import InputError
from limbeck.run.spec import RunSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["CONTEXT", "Made", "same_words", "spread", "spread_rows", "text_rows"]

CONTEXT = 256


class Made(NamedTuple):
    """Documents as rows."""

    text: TextPair
    train: TokenSet
    test: TokenSet
    view: TokenSet | None
    test_view: TokenSet | None
    context: int
    pack: bool


def text_rows(spec: RunSpec, mine: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase | None = None) -> Made:
    """The rows of a run, and the same documents in a teacher's tokens where those are others.

    Raises:
        InputError: for text that cannot be read, and documents that do not fit the context.
    """
    context, long = spec.context or CONTEXT, spec.long or "refuse"
    words: Any = mine
    whole = load_text(spec.data, tokenizer=words)
    if spec.limit is not None and spec.limit < len(whole.train):
        kept = sorted(random.Random(0).sample(range(len(whole.train)), spec.limit))
        whole = TextPair(whole.train.subset(kept), whole.test)
    if theirs is None:
        plain = all(span.learn for document in whole.train.documents for span in document)
        writes = find(spec.method).loop == "on_policy"  # it continues prompts, which packed rows have not
        pack = spec.pack if spec.pack is not None else plain and not writes
        rows = [tokenise(text, mine, context, pack=pack, long=long) for text in whole]
        return Made(whole, rows[0], rows[1], None, None, context, pack)
    if spec.pack:
        raise InputError("pack", True, "cannot be when the teacher has other tokens; use --no-pack")
    if long == "drop":
        whole = TextPair(*(_fitting(text, context, mine, theirs) for text in whole))
    chars = context
    while True:  # plain text is cut so short that a piece is one row in both
        text = TextPair(*(cut_text(part, chars) for part in whole))
        pairs = [[tokenise(part, t, context, long=long, offsets=True) for t in (mine, theirs)] for part in text]
        if all(len(a) == len(b) == len(part) for (a, b), part in zip(pairs, text, strict=True)):
            break
        if chars < 8:
            raise InputError("context", context, "is too short for the text in both tokenizers; raise it")
        chars = chars * 3 // 4
    (train, view), (test, test_view) = pairs
    return Made(whole, train, test, view, test_view, context, False)


def same_words(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers have the same words under the same numbers."""
    return a is b or (a.get_vocab() == b.get_vocab() and a.eos_token_id == b.eos_token_id)


def spread(data: TokenSet, words: int) -> TokenSet:
    """Rows with about so many words to learn at most, spread evenly over all."""
    kept = spread_rows(data, words)
    return data if len(kept) == len(data) else data.subset(kept)


def spread_rows(data: TokenSet, words: int) -> list[int]:
    """The numbers of those rows."""
    held = sum(sum(row.learn) for row in data.rows)
    wanted = max(1, min(len(data), int(len(data) * words / max(1, held))))
    return [k * len(data) // wanted for k in range(wanted)]


def _fitting(text: TextSet, context: int, *tokenizers: PreTrainedTokenizerBase) -> TextSet:
    """The documents that fit the context in every tokenizer; plain ones are cut later."""

    def fits(number: int) -> bool:
        document = text.documents[number]
        said = "".join(span.text for span in document)
        return document[0].learn or all(len(t(said).input_ids) + 8 <= context for t in tokenizers)

    kept = [k for k in range(len(text)) if fits(k)]
    if not kept:
        raise InputError("context", context, f"is too short for every document of {text.name}; raise it")
    return text.subset(kept)
