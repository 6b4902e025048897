"""Text: documents of spans, some of which are to be learnt; Python's own manual, sums, digits to sort."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from limbeck.errors import InputError

__all__ = ["Document", "Span", "TextPair", "TextSet", "arithmetic", "cut_text", "held_out", "manual", "sorting"]

TEST_SHARE = 0.1  # where a source brings no test documents of its own


class Span(NamedTuple):
    """A piece of a document.

    Args:
        text: what it says.
        learn: whether its words are to be learnt.
        close: whether an end-of-text token follows the document; a chat template writes its own.
    """

    text: str
    learn: bool = True
    close: bool = True


Document = tuple[Span, ...]


@dataclass(frozen=True, eq=False)
class TextSet:
    """Documents in memory.

    Args:
        documents: at least one, none of them empty.
        name: what messages and reports call it.
        domains: what kind of text each document is, one a document; empty when all are of one.

    Raises:
        InputError: for no documents, for one with nothing in it, and for another number of domains than documents.
    """

    documents: tuple[Document, ...]
    name: str = "text"
    domains: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.domains and len(self.domains) != len(self.documents):
            raise InputError("domains", len(self.domains), f"are not one for each of {len(self.documents)} documents")
        if not self.documents:
            raise InputError(self.name, 0, "documents are in it; give it some")
        for number, document in enumerate(self.documents):
            if not any(span.learn and span.text.strip() for span in document):
                kind = "completion" if len(document) > 1 else "text"
                raise InputError(f"{self.name}, document {number}", "", f"has an empty {kind}; drop it or fill it")

    def __len__(self) -> int:
        return len(self.documents)

    def subset(self, rows: Iterable[int]) -> TextSet:
        """Some documents, in the order given."""
        rows = list(rows)
        domains = tuple(self.domains[k] for k in rows) if self.domains else ()
        return TextSet(tuple(self.documents[k] for k in rows), self.name, domains)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything in it, in its order."""
        said = hashlib.sha256()
        for document in self.documents:
            for span in document:
                said.update(f"{len(span.text)} {span.learn} {span.close} {span.text}".encode())
        if self.domains:
            said.update(repr(self.domains).encode())
        return said.hexdigest()[:16]

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of what is to be learnt."""
        return sum(len(span.text.encode()) for document in self.documents for span in document if span.learn)


class TextPair(NamedTuple):
    """What is trained on, and held-out documents."""

    train: TextSet
    test: TextSet


def cut_text(text: TextSet, chars: int) -> TextSet:
    """Plain documents cut into pieces of at most ``chars`` characters, at a space where there is one."""
    pieces, origin = list[Document](), list[int]()
    for number, document in enumerate(text.documents):
        rest = document[0].text
        if len(document) > 1:
            pieces.append(document)
            rest = ""
        while rest:
            end = len(rest) if len(rest) <= chars else max(rest.rfind(" ", chars // 2, chars), 0) or chars
            if rest[:end].strip():
                pieces.append((document[0]._replace(text=rest[:end]),))
            rest = rest[end:]
        origin += [number] * (len(pieces) - len(origin))
    return TextSet(tuple(pieces), text.name, tuple(text.domains[k] for k in origin) if text.domains else ())


def manual(chars: int = 400) -> TextPair:
    """Python's own manual of its language, which every installation has: 465 thousand characters of real prose."""
    from pydoc_data.topics import topics

    whole = TextSet(tuple((Span(text),) for _, text in sorted(topics.items())), "manual")
    return held_out(cut_text(whole, chars))


def arithmetic(count: int = 4_000, largest: int = 99, seed: int = 0) -> TextPair:
    """Sums and differences, ``"12+7="`` and ``"19"``: no two alike, a tenth held out."""
    drawn = random.Random(seed)
    tasks = [(a, op, b) for a in range(largest + 1) for b in range(largest + 1) for op in "+-"]
    documents = [
        (Span(f"{a}{op}{b}=", learn=False), Span(str(a + b if op == "+" else a - b)))
        for a, op, b in drawn.sample(tasks, min(count, len(tasks)))
    ]
    return held_out(TextSet(tuple(documents), "arithmetic"))


def sorting(count: int = 4_000, digits: int = 5, seed: int = 0) -> TextPair:
    """Digits with the same ones in order, ``"31405>"`` and ``"01345"``: easy for two layers, hard for a narrow one."""
    drawn = random.Random(seed)
    tasks = drawn.sample(range(10**digits), min(count, 10**digits))
    asked = [f"{task:0{digits}d}" for task in tasks]
    documents = [(Span(f"{task}>", learn=False), Span("".join(sorted(task)))) for task in asked]
    return held_out(TextSet(tuple(documents), "sorting"))


def held_out(text: TextSet) -> TextPair:
    """A tenth held out, chosen by content, so always the same one; equal documents fall on one side."""
    if len(text) < 2:
        words = text.documents[0][0].text
        at = words.rfind(" ", 0, int(len(words) * (1 - TEST_SHARE)))
        if at <= 0:
            raise InputError(text.name, 1, "document cannot be split; give a test file: train.txt,test.txt")
        return TextPair(*(TextSet(((Span(part),),), text.name, text.domains) for part in (words[:at], words[at:])))

    def rank(number: int) -> bytes:
        said = "\0".join(span.text for span in text.documents[number])
        return hashlib.sha256(said.encode()).digest()

    order = sorted(range(len(text)), key=rank)
    held = max(1, round(TEST_SHARE * len(text)))
    border = rank(order[held - 1])
    test = [k for k in order if rank(k) <= border]
    train = [k for k in range(len(text)) if rank(k) > border]
    if not train:
        raise InputError(text.name, len(text), "documents are all the same; give a test file: train.txt,test.txt")
    return TextPair(text.subset(train), text.subset(sorted(test)))
