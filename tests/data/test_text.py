"""Where text comes from, and what is said of text that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limbeck.data.load_text import load_text
from limbeck.data.text import Span, TextSet, cut_text, manual, sorting
from limbeck.errors import InputError
from limbeck.models.tiny_lm import byte_tokenizer

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}|{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def written(path: Path, *rows: object) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def test_built_in_text_is_always_the_same_and_splits_without_overlap() -> None:
    for make in (manual, sorting):
        one, other = make(), make()
        assert one.train.fingerprint == other.train.fingerprint
        said = [{document for document in part.documents} for part in one]
        assert not said[0] & said[1] and len(one.test) > 50
    document = sorting(digits=5).train.documents[0]
    assert sorted(document[0].text[:-1]) == list(document[1].text)


def test_prompts_and_completions_by_any_of_their_names(tmp_path: Path) -> None:
    rows = [{"question": f"q{k}", "answer": f"a{k}"} for k in range(20)]
    pair = load_text(written(tmp_path / "x.jsonl", *rows))
    assert len(pair.train) == 18 and len(pair.test) == 2
    assert pair.train.documents[0][0] == Span("q" + pair.train.documents[0][1].text[1:], learn=False)
    more = {"instruction": "Add.", "input": "1 2", "output": "3"}
    pair = load_text(written(tmp_path / "y.jsonl", more) + "," + written(tmp_path / "z.jsonl", more))
    assert pair.train.documents[0][0].text == "Add.\n1 2"


def test_chats_learn_the_assistants_turns_and_what_ends_them(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    talk = [
        {"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    ]
    reference = written(tmp_path / "x.jsonl", {"messages": talk})
    document = load_text(f"{reference},{reference}", tokenizer=tokenizer).train.documents[0]
    assert [(span.text, span.learn) for span in document] == [
        ("<user>a|<assistant>", False), ("b|", True), ("<user>c|<assistant>", False), ("d|", True),
    ]  # fmt: skip
    assert not document[-1].close, "the template writes its own end"


def test_domains_follow_their_documents(tmp_path: Path) -> None:
    rows = [{"text": f"{k} " * 30, "domain": "odd" if k % 2 else "even"} for k in range(20)]
    for part in load_text(written(tmp_path / "x.jsonl", *rows), chars=20):
        assert len(part.domains) == len(part) > 2
        turned = part.subset(reversed(range(len(part))))
        for text in (part, turned):
            for document, domain in zip(text.documents, text.domains, strict=True):
                assert domain == ("odd" if int(document[0].text.split()[0]) % 2 else "even")
        assert part.fingerprint != TextSet(part.documents, part.name).fingerprint
    with pytest.raises(InputError, match=r"line 2, domain.*None"):
        load_text(written(tmp_path / "y.jsonl", rows[0], {"text": "a"}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"prompt": "a", "completion": " "}', "line 1.*empty completion"),
        ('{"prompt": "a"}', "line 1.*no prompt with completion"),
        ('{"text": 3}', "line 1, text.*must be a text"),
        ("not json", "line 1.*is not JSON"),
        ("[1]", "line 1.*must be an object"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "no assistant turn"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "chat template"),
        ('{"messages": "a"}', "must be a list"),
        ("", "documents are in it"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=said):
        load_text(str(path))


def test_bad_files_are_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes("né".encode("latin-1"))
    for reference, said in (
        (str(latin), "not UTF-8"),
        (str(tmp_path / "none.txt"), "cannot be read"),
        (str(tmp_path / "none"), "is no text"),
        ("a.txt,b.txt,c.txt", "more than two"),
    ):
        with pytest.raises(InputError, match=said):
            load_text(reference)


def test_one_long_text_is_split_and_cut_at_spaces(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text(" ".join(f"word{k}" for k in range(400)))
    pair = load_text(str(path))
    assert (pair.train.documents[0][0].text + pair.test.documents[0][0].text).strip() == path.read_text()
    pieces = cut_text(pair.train, 50)
    assert "".join(document[0].text for document in pieces.documents) == pair.train.documents[0][0].text
    assert max(len(document[0].text) for document in pieces.documents) <= 50
