"""Text out of files and Hub data sets: paragraphs, prompts with completions, chats."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from limbeck.data.text import Document, Span, TextPair, TextSet, arithmetic, cut_text, held_out, manual, sorting
from limbeck.errors import InputError, brief, nearest

__all__ = ["ChatTemplate", "load_text"]

PROMPTS = ("prompt", "instruction", "question", "input")
COMPLETIONS = ("completion", "response", "answer", "output")


class ChatTemplate(Protocol):
    """What turns messages into text: a tokenizer."""

    def apply_chat_template(self, conversation: Sequence[Mapping[str, str]], **options: Any) -> Any: ...


def load_text(reference: str, *, tokenizer: ChatTemplate | None = None, chars: int = 0) -> TextPair:
    """The training and the test documents that a reference names.

    Args:
        reference: one of

            - ``manual``: the language reference that comes with Python; ``arithmetic``: sums with their results;
              ``sorting``: digits and the same ones in order;
            - a ``.txt`` file: documents are separated by blank lines where it has some, else it is one;
            - a ``.jsonl`` or ``.parquet`` file with ``text``; or ``prompt`` and ``completion`` (also
              ``instruction``/``question``/``input`` and ``response``/``answer``/``output``); or ``messages``, whose
              assistant turns are learnt; and, perhaps, ``domain``, the kind of text that it is;
            - ``train.txt,test.txt``: two of those files;
            - ``owner/name`` on the Hugging Face Hub, with such columns.

            A source without test documents gives a tenth, chosen by content.
        tokenizer: whose chat template formats ``messages``.
        chars: cut plain text into documents of at most so many characters; 0 leaves them whole.

    Raises:
        InputError: in one line that names the file, the line and the fix.
    """
    match reference.split(","):
        case ["manual"]:
            pair = manual()
        case ["arithmetic"]:
            pair = arithmetic()
        case ["sorting"]:
            pair = sorting()
        case [one]:
            parts = _read(one, tokenizer)
            pair = TextPair(*parts) if isinstance(parts, tuple) else held_out(parts)
        case [train, test]:
            both = [_read(part, tokenizer) for part in (train, test)]
            pair = TextPair(*(part[0] if isinstance(part, tuple) else part for part in both))
        case _:
            raise InputError("data", reference, "names more than two files; give train.txt,test.txt")
    return TextPair(*(cut_text(part, chars) for part in pair)) if chars else pair


def _read(reference: str, tokenizer: ChatTemplate | None) -> TextSet | tuple[TextSet, TextSet]:
    path = Path(reference).expanduser()
    if path.suffix in (".txt", ".md") or (path.is_file() and path.suffix not in (".jsonl", ".json", ".parquet")):
        return TextSet(tuple(_paragraphs(_utf8(path))), path.name)
    if path.suffix in (".jsonl", ".json"):
        return _rows(path.name, path.name, _lines(path), tokenizer)
    if path.suffix == ".parquet":
        return _rows(path.name, path.name, _parquet(path), tokenizer)
    if path.exists() or reference.count("/") != 1:
        raise InputError("data", reference, "is no text; give a .txt, .jsonl or .parquet file, or a Hub id owner/name")
    return _hub(reference, tokenizer)


def _utf8(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError("data", str(path), f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError("data", str(path), f"is not UTF-8 (byte {error.start}); convert it") from None


def _paragraphs(text: str) -> Iterator[Document]:
    blocks = [block for block in text.split("\n\n") if block.strip()]
    return ((Span(block.strip("\n") + "\n"),) for block in blocks)


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(_utf8(path).splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                raise InputError(f"{path.name}, line {number}", line[:60], "is not JSON") from None
            if not isinstance(row, dict):
                raise InputError(f"{path.name}, line {number}", line[:60], "must be an object, such as {'text': ...}")
            yield number, row


def _parquet(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    from pyarrow import parquet

    try:
        return enumerate(parquet.read_table(path).to_pylist(), 1)
    except Exception as error:  # pyarrow has many kinds
        raise InputError("data", str(path), f"cannot be read as parquet: {brief(error)}") from None


def _hub(reference: str, tokenizer: ChatTemplate | None) -> tuple[TextSet, TextSet] | TextSet:
    from datasets import load_dataset

    try:
        found = load_dataset(reference)
    except Exception as error:  # the network, the Hub, a script: each with exceptions of its own
        raise InputError("data", reference, f"cannot be had from the Hub: {brief(error)}") from None
    parts = {
        name: _rows(f"{reference} {name}", reference, enumerate(found[name], 1), tokenizer)
        for name in found
        if name in ("train", "test", "validation")
    }
    if "train" not in parts:
        raise InputError("data", reference, f"has no split called train; it has {', '.join(found)}")
    test = parts.get("test", parts.get("validation"))
    return parts["train"] if test is None else (parts["train"], test)


def _rows(
    where: str, name: str, rows: Iterable[tuple[int, Mapping[str, Any]]], tokenizer: ChatTemplate | None
) -> TextSet:
    """Documents, and their domains where the rows have a ``domain``: all of them or none."""
    kept = [(number, row) for number, row in rows]
    found = [(number, row.get("domain")) for number, row in kept]
    if any(domain is not None for _, domain in found):
        for number, domain in found:
            if not isinstance(domain, str):
                raise InputError(f"{where}, line {number}, domain", domain, "must be a text, as in the other lines")
    domains = tuple(domain for _, domain in found if isinstance(domain, str))
    return TextSet(tuple(_documents(where, kept, tokenizer)), name, domains)


def _documents(
    name: str, rows: Iterable[tuple[int, Mapping[str, Any]]], tokenizer: ChatTemplate | None
) -> Iterator[Document]:
    for number, row in rows:
        where = f"{name}, line {number}"
        if "messages" in row:
            yield _chat(where, row["messages"], tokenizer)
            continue
        prompt = next((key for key in PROMPTS if key in row), None)
        answer = next((key for key in COMPLETIONS if key in row), None)
        if "text" in row:
            yield (Span(_string(where, "text", row["text"])),)
        elif prompt is not None and answer is not None:
            asked = _string(where, prompt, row[prompt])
            more = row.get("input") if prompt == "instruction" else None
            asked += f"\n{more}" if more else ""
            answered = _string(where, answer, row[answer])
            if not answered.strip():
                raise InputError(where, "", f"has an empty {answer}; drop the line or fill it in")
            yield Span(asked, learn=False), Span(answered)
        else:
            keys = ", ".join(row)
            raise InputError(where, keys, f"has no text, no prompt with completion, no messages{nearest('text', row)}")


def _string(where: str, key: str, given: object) -> str:
    if not isinstance(given, str):
        raise InputError(f"{where}, {key}", given, "must be a text")
    return given


def _chat(where: str, messages: object, tokenizer: ChatTemplate | None) -> Document:
    """Assistant turns are learnt, up to and with what the template writes after them."""
    turns: list[Any] = messages if isinstance(messages, list) else [None]
    if not all(isinstance(m, dict) and "role" in m and "content" in m for m in turns):
        raise InputError(where, messages, "must be a list of {'role': ..., 'content': ...}")
    if not any(message["role"] == "assistant" for message in turns):
        raise InputError(where, [m["role"] for m in turns], "has no assistant turn, so there is nothing to learn")
    if tokenizer is None or getattr(tokenizer, "chat_template", None) is None:
        raise InputError(where, "messages", "needs a tokenizer with a chat template; use prompt and completion instead")
    spans, written = list[Span](), ""
    try:
        for k, message in enumerate(turns):
            if message["role"] == "assistant":
                asked = tokenizer.apply_chat_template(turns[:k], tokenize=False, add_generation_prompt=True)
                said = tokenizer.apply_chat_template(turns[: k + 1], tokenize=False)
                if not said.startswith(asked) or not asked.startswith(written):
                    raise InputError(where, k, "is a turn whose template rewrites earlier ones; split the conversation")
                spans += [Span(asked[len(written) :], False, False), Span(said[len(asked) :], True, False)]
                written = said
    except InputError:
        raise
    except Exception as error:  # jinja2 errors of a template that wants other roles
        raise InputError(where, "messages", f"does not fit the chat template: {brief(error)}") from None
    return tuple(spans)
