"""A mixture of domains: the shares it draws, its order, its place."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
import torch

from limbeck.data.mixture import Mixture, hold_out
from limbeck.data.text import Span, TextSet
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import TokenSet
from limbeck.errors import InputError
from limbeck.models.tiny_lm import byte_tokenizer

KINDS = "a" * 12 + "b" * 6 + "c" * 2


def rows(kinds: str = KINDS) -> TokenSet:
    text = tuple((Span(f"{kind}{k}"),) for k, kind in enumerate(kinds))
    return tokenise(TextSet(text, "kinds", tuple(kinds)), byte_tokenizer(), 8)


def drawn(mixture: Mixture, batches: int) -> list[int]:
    return [int(k) for batch in islice(iter(mixture), batches) for k in batch.index]


def test_domains_come_in_the_shares_that_are_set() -> None:
    mixture = Mixture(rows(), 50, seed=3)
    counts = Counter(KINDS[k] for k in drawn(mixture, 40))
    assert abs(counts["a"] / 2000 - 0.6) < 0.03 and abs(counts["c"] / 2000 - 0.1) < 0.03
    mixture.weights = [0.0, 0.25, 0.75]
    counts = Counter(KINDS[k] for k in drawn(mixture, 40))
    assert counts["a"] == 0 and abs(counts["c"] / 2000 - 0.75) < 0.03


def test_a_domain_is_read_to_its_end_before_it_is_shuffled_again() -> None:
    mixture = Mixture(rows(), 8, seed=1)
    own = [k for k in drawn(mixture, 12) if KINDS[k] == "b"]
    times = [own[start : start + 6] for start in range(0, len(own) - 5, 6)]
    assert len(times) > 2 and all(sorted(time) == list(range(12, 18)) for time in times)
    assert times[0] != times[1]


def test_it_goes_on_from_its_state_with_the_weights_of_then() -> None:
    one, other = Mixture(rows(), 4, seed=5), Mixture(rows(), 4, seed=5)
    stream = iter(one)
    next(stream)
    one.weights = [0.1, 0.2, 0.7]
    next(stream)
    other.load_state_dict(one.state_dict())
    assert torch.stack([next(stream).index for _ in range(6)]).equal(torch.tensor(drawn(other, 6)).view(6, 4))
    assert drawn(Mixture(rows(), 4, seed=6), 6) != drawn(Mixture(rows(), 4, seed=5), 6)
    with pytest.raises(InputError, match="seed"):
        Mixture(rows(), 4, seed=6).load_state_dict(one.state_dict())


def test_one_domain_is_refused_with_what_to_do() -> None:
    with pytest.raises(InputError, match=r"'1' domains.*\.jsonl"):
        Mixture(rows("aaa"))


def test_every_domain_lends_rows_to_be_measured_on() -> None:
    train, held = hold_out(rows(), 0.3, most=3)
    assert [len(part) for part in held] == [3, 2, 1] and [set(part.domains) for part in held] == [{"a"}, {"b"}, {"c"}]
    keys = [key for part in (train, *held) for key in part.keys.tolist()]
    assert sorted(keys) == sorted(rows().keys.tolist())
    with pytest.raises(InputError, match="domain 'c'"):
        hold_out(rows("aabbc"), 0.3, most=3)
