"""Partitions: everyone has rows, every row has one owner, and the mixes are what their names say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.federated.partition import alike, partition, skewed
from tests.worlds import vision_world

LABELS = torch.arange(600) % 10


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["iid", "dirichlet-0.01", "dirichlet-0.1", "dirichlet-100", "shards-1", "shards-2"]),
       st.integers(1, 40), st.integers(0, 10_000))  # fmt: skip
def test_every_row_has_one_owner_and_every_client_has_rows(split: str, clients: int, seed: int) -> None:
    parts = partition(split, LABELS, clients, seed)
    assert len(parts) == clients and min(map(len, parts)) >= 2
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(600))
    again = partition(split, LABELS, clients, seed)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


def mix(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([torch.bincount(LABELS[rows], minlength=10) / len(rows) for rows in parts])


def test_alpha_decides_how_unlike_clients_are() -> None:
    spread = [float(mix(partition(f"dirichlet-{a}", LABELS, 10, 1)).max(1).values.mean()) for a in (0.05, 0.5, 100.0)]
    assert spread[0] > spread[1] > spread[2] and spread[0] > 0.6 and spread[2] < 0.2


def test_two_shards_are_few_classes() -> None:
    assert int((mix(partition("shards-2", LABELS, 10, 3)) > 0).sum(1).max()) <= 4


def test_the_test_set_is_dealt_in_the_same_shares() -> None:
    parts, others = partition("dirichlet-0.3", LABELS, 5, 0), torch.arange(3000) % 10
    dealt = alike(parts, LABELS, others, 0)
    assert torch.equal(torch.cat(dealt).sort().values, torch.arange(3000))
    for mine, theirs in zip(parts, dealt, strict=True):
        for k in range(10):
            assert abs(5 * int((LABELS[mine] == k).sum()) - int((others[theirs] == k).sum())) <= 5


@pytest.mark.parametrize("split", ["dirichlet", "dirichlet-0", "dirichlet-x", "shards-0", "iid-3", "nonsense"])
def test_other_names_are_refused(split: str) -> None:
    with pytest.raises(InputError, match="split"):
        partition(split, LABELS, 5, 0)


def test_too_many_clients_and_unknown_labels_are_refused() -> None:
    with pytest.raises(InputError, match="population"):
        partition("iid", LABELS, 301, 0)
    with pytest.raises(InputError, match="labels"):
        partition("iid", torch.full((10,), -1), 2, 0)


def test_groups_of_clients_see_the_same_things_differently() -> None:
    data = vision_world().train
    x, _ = data.take(torch.arange(len(data)))
    for split in ("rotation-2", "contrast-4"):
        assert [len(rows) for rows in partition(split, LABELS, 6, 0)] == [100] * 6
        assert skewed(split, 0, data) is data and skewed("iid", 3, data) is data
    turned = skewed("rotation-2", 3, data)
    torch.testing.assert_close(turned.images, x.rot90(1, (2, 3)), atol=1e-4, rtol=0)
    assert torch.equal(turned.labels, data.labels)
    torch.testing.assert_close(skewed("contrast-4", 6, data).images - 0.5, 0.5 * (x - 0.5))
    with pytest.raises(InputError, match="rotation-G"):
        partition("rotation-1", LABELS, 6, 0)
