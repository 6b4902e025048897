"""Spans of bytes against a slow walk over both token sequences, and what must be left out."""

import pytest
import torch

from limbeck.data.alignment import align, joined, opens_word
from limbeck.data.text import Span, TextSet
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import INSIDE, TokenBatches, Tokens
from limbeck.errors import InputError
from limbeck.models.tiny_lm import bpe_tokenizer, byte_tokenizer

TEXTS = ["aé 日本 x\n  ß 😀!", "the cat sat on the mat", "日日日 本本 é", " lead", "x"]
SEEN = ["aé 日本 日本 日日 x\n  ß 😀! é the cat the mat sat"] * 3


def documents(texts, prompt=0):
    """Plain text, or the first ``prompt`` characters as a prompt."""
    made = [(Span(t[:prompt], False), Span(t[prompt:])) if prompt else (Span(t),) for t in texts]
    return TextSet(tuple(made))


def fallback_tokenizer():
    """SentencePiece's ways: a space before everything, unknown characters as bytes, whose offsets are characters."""
    from tokenizers import Tokenizer, models, normalizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *"▁abcehmnostx!", "▁a", "th"]
    merges = [("▁", "a"), ("t", "h")]
    vocab = {word: k for k, word in enumerate(dict.fromkeys(words))}
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="<unk>")


def batch_of(texts, student, teacher, context=64, other=None, prompt=0, **options):
    text = documents(texts, prompt)
    ours = tokenise(text, student, context, offsets=True, **options)
    theirs = tokenise(text, teacher, other or context, offsets=True, **options)
    return TokenBatches(ours, len(ours), shuffle=False, view=theirs).make(torch.arange(len(ours)))


def slow(batch):
    """Every span as (row, byte after it, tokens of the student, tokens of the teacher); byte -1 is the end of text."""
    found = []
    for row in range(len(batch.x)):
        sides = []
        for side in (batch, batch.view):
            n = int((side.segment[row] > 0).sum())
            tokens = [(i, int(side.ends[row, i]), i > 0 and int(side.y[row, i - 1]) >= 0) for i in range(n)]
            sides.append(tokens)
        ends = [{e for _, e, _ in side if e >= 0} for side in sides]
        common, begins, parts = sorted(ends[0] & ends[1]), [0, 0], []
        for byte in common:
            pair = []
            for k, side in enumerate(sides):
                stop = max(i for i, e, _ in side if e == byte) + 1
                pair.append([t for t in side[begins[k] : stop] if not (t[0] == 0 and t[1] == -1)])
                begins[k] = stop
            parts.append((byte, *pair))
        left = [side[begin:] for side, begin in zip(sides, begins)]
        if all(len(rest) == 1 and rest[0][1] == -1 for rest in left):
            parts.append((-1, *left))
        found += [
            (row, byte, [i for i, _, _ in a], [i for i, _, _ in b])
            for byte, a, b in parts
            if all(learnt for _, _, learnt in a + b)
        ]
    return found


def spelt(batch):
    """What ``align`` found, in the same form."""
    spans, found = align(batch), []
    for n in range(len(spans)):
        tokens = []
        for side, tokens_of in ((spans.student, batch), (spans.teacher, batch.view)):
            row, position = (side.span == n).nonzero().unbind(1)
            assert row.unique().numel() == 1
            tokens.append((position + 1).tolist())
            assert int(side.last[n]) == int(row[0]) * tokens_of.x.shape[1] + tokens[-1][-1]
        end = int(batch.ends[int(row[0]), tokens[0][-1]])
        assert bool(spans.closed[n]) == (end == -1)
        found.append((int(row[0]), end, *tokens))
    return found


PAIRS = {
    "bytes and pairs": (byte_tokenizer(), bpe_tokenizer(SEEN, 290)),
    "pairs and bytes": (bpe_tokenizer(SEEN, 290), byte_tokenizer()),
    "two sets of pairs": (bpe_tokenizer(SEEN, 275), bpe_tokenizer(["日本 é x the mat"], 270)),
    "bytes and pieces": (byte_tokenizer(), fallback_tokenizer()),
    "pieces and pairs": (fallback_tokenizer(), bpe_tokenizer(SEEN, 290)),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("prompt", [0, 1])
def test_spans_are_those_of_a_slow_walk(pair, prompt):
    texts = [t for t in TEXTS if len(t) > prompt]
    batch = batch_of(texts, *PAIRS[pair], prompt=prompt)
    assert spelt(batch) == slow(batch)
    assert len(align(batch)) > len(texts)


@pytest.mark.parametrize("pair", PAIRS)
def test_spans_spell_the_same_bytes(pair):
    """Without looking at ``ends``: the bytes of a span's tokens, taken from the words themselves, agree."""
    student, teacher = PAIRS[pair]
    batch = batch_of(TEXTS, student, teacher, prompt=0)
    for row, end, ours, theirs in spelt(batch):
        if end >= 0:
            said = raw(student, batch.x[row, ours])
            assert said == raw(teacher, batch.view.x[row, theirs]) and TEXTS[row].encode().endswith(said, 0, end)


def raw(tokenizer, ids):
    """The bytes of tokens, by the byte-level alphabet or by pieces."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    out = b""
    for word in tokenizer.convert_ids_to_tokens(ids.tolist()):
        if word.startswith("<0x"):
            out += bytes([int(word[3:5], 16)])
        elif "▁" in word:
            out += word.replace("▁", " ").encode()
        else:
            out += bytes(letters[c] for c in word)
    return out


def test_a_character_split_across_tokens_is_no_boundary_unless_both_split_it_there():
    student, teacher = byte_tokenizer(), bpe_tokenizer(["日本"] * 3, 300)
    batch = batch_of(["x日本"], student, teacher, prompt=1)
    assert batch.ends[0].tolist() == [1, 2, 3, 4, 5, 6, 7, -1], "bytes inside a character are counted"
    assert [(end, len(a), len(b)) for _, end, a, b in spelt(batch)] == [(7, 6, 1), (-1, 1, 1)]
    pieces = tokenise(documents(["日x"]), fallback_tokenizer(), 16, offsets=True).rows[0]
    assert pieces.ends == [INSIDE] * 3 + [3, 4, -1], "characters do not tell where a byte, or a made-up space, ends"


def test_what_a_context_cuts_off_is_left_out():
    student, teacher = PAIRS["bytes and pairs"]
    whole = batch_of(["z the cat sat on the mat"], student, teacher, prompt=1, long="truncate")
    cut = batch_of(["z the cat sat on the mat"], student, teacher, context=12, other=64, prompt=1, long="truncate")
    assert cut.x.shape[1] == 12 and spelt(cut) == slow(cut)
    kept = [s for s in spelt(whole) if 0 <= s[1] <= 12]
    assert spelt(cut) == kept, "the same spans as far as both can read; no end of text"
    assert not align(cut).closed.any() and align(whole).closed.sum() == 1


def test_only_what_both_learn_counts_and_nothing_predicts_a_first_token():
    student, teacher = PAIRS["bytes and pairs"]
    batch = batch_of(["the cat"], student, teacher)
    spans = align(batch)
    assert int(spans.student.span.max()) == len(spans) - 1
    first = min(a[0] for _, _, a, _ in spelt(batch))
    assert first > 0 and spelt(batch)[0][1] == int(batch.view.ends[0, 1])
    hidden = batch._replace(y=torch.where(torch.arange(batch.x.shape[1]) < 4, -100, batch.y))
    assert [s[1] for s in spelt(hidden)] == [s[1] for s in spelt(batch) if s[2][0] > 4]


def test_a_bos_is_no_text_and_a_token_without_bytes_belongs_to_what_it_follows():
    """By hand: BOS, two bytes, a token of no bytes, EOS; against BOS, one token, EOS."""

    def side(ends):
        x = torch.arange(len(ends))[None]
        y = torch.cat([x[:, 1:], torch.tensor([[-100]])], 1)
        zero = torch.zeros(1, dtype=torch.int64)
        return Tokens(x, y, torch.ones_like(x), zero, zero, torch.tensor([ends]))

    batch = side([-1, 1, 2, 2, -1])._replace(view=side([-1, 2, -1]))
    assert spelt(batch) == [(0, 2, [1, 2, 3], [1]), (0, -1, [4], [2])] == slow(batch)


def test_follows_breaks_where_a_span_is_missing():
    student, teacher = byte_tokenizer(), byte_tokenizer()
    batch = batch_of(["abcdef", "xy"], student, teacher)
    y = batch.y.clone()
    y[0, 2] = -100  # the fourth byte is not learnt
    spans = align(batch._replace(y=y))
    ends = [(s[0], s[1]) for s in spelt(batch._replace(y=y))]
    assert ends == [(0, 2), (0, 3), (0, 5), (0, 6), (0, -1), (1, 2), (1, -1)]
    assert spans.follows.tolist() == [False, True, False, True, True, False, True]


def test_sums_over_spans():
    batch = batch_of(["a日本b", "the cat"], *PAIRS["bytes and pairs"])
    spans = align(batch)
    values = torch.randn(batch.x.shape, requires_grad=True)
    total = spans.student.total(values, len(spans))
    for n, (row, _, tokens, _) in enumerate(spelt(batch)):
        assert torch.allclose(total[n], sum(values[row, i - 1] for i in tokens))
    total.sum().backward()
    assert torch.equal(values.grad != 0, spans.student.span >= 0)


def test_one_tokenizer_without_a_view():
    data = tokenise(documents(TEXTS), byte_tokenizer(), 40, pack=True)
    batch = TokenBatches(data, len(data), shuffle=False).make(torch.arange(len(data)))
    spans = align(batch)
    assert len(spans) == int(batch.mask.sum()) and spans.closed.all()
    assert torch.equal(spans.student.span >= 0, batch.mask)
    assert torch.equal(batch.x.flatten()[spans.student.last], batch.y[batch.mask])


def test_joining_stops_at_gaps_and_leaves_out_what_never_closes():
    follows = torch.tensor([False, True, True, False, True, False, True, True])
    closing = torch.tensor([False, True, False, False, True, True, False, True])
    assert joined(follows, closing).tolist() == [0, 0, -1, 1, 1, 2, 3, 3]
    assert joined(follows[:0], closing[:0]).tolist() == []


def test_refusals():
    student, teacher = PAIRS["bytes and pairs"]
    text = documents(TEXTS)
    packed = tokenise(text, student, 300, pack=True, offsets=True)
    view = tokenise(text, teacher, 300, pack=True, offsets=True)
    with pytest.raises(InputError, match="pack"):
        align(TokenBatches(packed, 1, view=view).make(torch.tensor([0])))
    plain = batch_of(TEXTS, student, teacher)
    with pytest.raises(InputError, match="offsets"):
        align(plain._replace(view=plain.view._replace(ends=None)))
    moved = plain.view._replace(**{n: getattr(plain.view, n).roll(1, 0) for n in ("x", "y", "segment", "ends")})
    with pytest.raises(InputError, match="same documents"):
        align(plain._replace(view=moved))


def test_words_that_open_a_word():
    tokenizer = bpe_tokenizer([" the\n the\tx"] * 3, 275)
    opens, words = opens_word(tokenizer), tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    assert {w for w, o in zip(words, opens) if o} >= {"<eos>", "<pad>", "Ġ", "Ċ", "ĉ", "Ġthe"}
    assert all(not o or w in ("<eos>", "<pad>") or w[0] in "ĠĊĉ" for w, o in zip(words, opens))
    assert opens_word(fallback_tokenizer())[fallback_tokenizer().convert_tokens_to_ids("▁a")]
