"""Tokens: the one shift, masks, packing, prompts and answers, bytes."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from limbeck.data.text import Span, TextSet, sorting
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import IGNORE, TokenBatches, continued, prompts
from limbeck.errors import InputError
from limbeck.models.tiny_lm import bpe_tokenizer, byte_tokenizer

BYTES = byte_tokenizer()
ASKED = TextSet(((Span("ab", learn=False), Span("cd")), (Span("efg", learn=False), Span("h"))), "asked")
PLAIN = TextSet(((Span("abcdef"),), (Span("gh"),), (Span("ijklm"),)), "plain")


def ids(text: str) -> list[int]:
    return BYTES(text).input_ids


def test_y_is_x_one_to_the_left_where_it_is_to_be_learnt() -> None:
    batch = tokenise(ASKED, BYTES, 16).take(torch.tensor([0, 1]))
    end = BYTES.eos_token_id
    assert batch.x[0].tolist() == [*ids("abcd"), end]
    assert batch.y.tolist() == [
        [IGNORE, *ids("cd"), end, IGNORE],
        [IGNORE, IGNORE, *ids("h"), end, IGNORE],
    ]
    assert float(batch.weight.sum()) == pytest.approx(1) and int(batch.mask.sum()) == 5


def test_packed_documents_do_not_predict_each_other_and_lose_no_token() -> None:
    packed = tokenise(PLAIN, BYTES, 6, pack=True)
    whole = [token for row in packed.rows for token in row.ids]
    end = BYTES.eos_token_id
    assert whole == [*ids("abcdef"), end, *ids("gh"), end, *ids("ijklm"), end]
    batch = packed.take(torch.arange(len(packed)))
    for x, y, segment in zip(batch.x, batch.y, batch.segment, strict=True):
        for t in range(len(x) - 1):
            joined = segment[t] == segment[t + 1] and segment[t] > 0
            assert int(y[t]) == (int(x[t + 1]) if joined else IGNORE)
    assert batch.packed and (batch.y[:, -1] == IGNORE).all()


def test_a_packed_row_holds_one_domain() -> None:
    text = TextSet(tuple((Span(c * 5),) for c in "abababab"), "two", tuple("abababab"))
    for pack in (True, False):
        made = tokenise(text, BYTES, 16, pack=pack)
        assert len(made.domains) == len(made) and set(made.domains) == {"a", "b"}
        for row, domain in zip(made.rows, made.domains, strict=True):
            assert set(row.ids) == {*ids(domain), BYTES.eos_token_id}
        assert made.subset([len(made) - 1]).domains == made.domains[-1:]


def test_a_document_with_a_prompt_is_never_cut_by_packing() -> None:
    packed = tokenise(ASKED, BYTES, 7, pack=True)
    assert [len(row.ids) for row in packed.rows] == [5, 5]


def test_a_long_document_is_refused_cut_or_dropped_by_name() -> None:
    long = TextSet((*ASKED.documents, (Span("abcdefgh", learn=False), Span("i"))), "long")
    with pytest.raises(InputError, match=r"document 2.*--context"):
        tokenise(long, BYTES, 8)
    assert len(tokenise(long, BYTES, 8, long="drop")) == 2
    with pytest.raises(InputError, match="document 2"):  # cut, it has nothing to learn
        tokenise(long, BYTES, 8, long="truncate")
    assert len(tokenise(long, BYTES, 9, long="truncate")) == 3


def test_an_empty_completion_is_refused() -> None:
    with pytest.raises(InputError, match=r"document 0.*empty completion"):
        TextSet(((Span("a", learn=False), Span(" ")),))


def test_prompts_are_padded_left_and_answers_end_at_their_end_of_text() -> None:
    batch = tokenise(ASKED, BYTES, 16).take(torch.tensor([0, 1]))
    asked, mask = prompts(batch, 0)
    assert asked.tolist() == [[0, *ids("ab")], ids("efg")] and mask.tolist() == [[0, 1, 1], [1, 1, 1]]
    end = BYTES.eos_token_id
    said = torch.tensor([[*ids("x"), end, *ids("y")], ids("xyz")])
    own = continued(asked, mask, said, eos=end, pad=0)
    assert own.y[0].tolist() == [IGNORE, *ids("x"), end, IGNORE, IGNORE, IGNORE]
    assert own.y[1].tolist() == [IGNORE, IGNORE, *ids("xyz"), IGNORE]
    with pytest.raises(InputError, match="pack"):
        prompts(tokenise(PLAIN, BYTES, 6, pack=True).take(torch.arange(2)), 0)


def test_bytes_of_tokens_count_characters_of_several() -> None:
    text = TextSet(((Span("né€\U0001f600x"),),))
    row = tokenise(text, BYTES, 32, offsets=True).rows[0]
    assert max(row.ends) == len("né€\U0001f600x".encode()) and row.ends[-1] == -1  # the end of text has no bytes
    assert row.ends[:-1] == sorted(row.ends[:-1])
    pairs = bpe_tokenizer(["né né né", "xx xx"], 270)
    ends = tokenise(text, pairs, 32, offsets=True).rows[0].ends
    assert set(ends) <= set(row.ends)


def test_keys_name_content_and_batches_resume() -> None:
    pair = sorting(60, digits=3)
    data = tokenise(pair.train, BYTES, 16)
    turned = tokenise(pair.train.subset(reversed(range(len(pair.train)))), BYTES, 16)
    assert data.keys.tolist() == turned.keys.tolist()[::-1] and len(set(data.keys.tolist())) == len(data)
    assert data.fingerprint != turned.fingerprint
    stream = TokenBatches(data, 8, seed=5)
    before = list(islice(stream, 3))
    later = TokenBatches(data, 8, seed=5)
    later.load_state_dict({**stream.state_dict(), "taken": 2})
    torch.testing.assert_close(next(iter(later)).x, before[2].x)


def test_a_view_has_the_same_rows() -> None:
    pair = sorting(60, digits=3)
    ours, theirs = tokenise(pair.train, BYTES, 16), tokenise(pair.train, bpe_tokenizer(["123 012"], 300), 16)
    batch = next(iter(TokenBatches(ours, 4, view=theirs)))
    assert batch.view is not None and batch.view.index.equal(batch.index) and batch.teacher_view is batch.view
    with pytest.raises(InputError, match="pack"):
        TokenBatches(ours, 4, view=theirs.subset([0, 1]))
