"""Batches by class: as many of each, every image once an epoch, resumed where they were."""

import torch

from limbeck.data.by_class import ClassBatches
from limbeck.data.images import ImageSet
from limbeck.errors import InputError
from tests.worlds import vision_world

DATA = vision_world().train


def test_every_batch_has_as_many_of_every_class_and_an_epoch_sees_every_image_once() -> None:
    batches = ClassBatches(DATA, 4, seed=3)
    seen = list(batches)
    assert len(seen) == 6
    for batch in seen:
        assert batch.y.tolist() == [k for k in range(6) for _ in range(4)]
        assert torch.equal(batch.y, DATA.labels[batch.index])
    assert sorted(torch.cat([b.index for b in seen]).tolist()) == list(range(144))
    assert not torch.equal(seen[0].index, next(iter(batches)).index)


def test_small_classes_give_all_they_have() -> None:
    rows = torch.cat([(DATA.labels == k).nonzero().squeeze(1)[: 2 + k] for k in range(6)])
    [first, *_] = ClassBatches(DATA.subset(rows), 5)
    assert torch.bincount(first.y).tolist() == [2, 3, 4, 5, 5, 5]


def test_it_goes_on_where_it_was() -> None:
    whole = ClassBatches(DATA, 5, seed=1)
    epochs = [b.index for _ in range(2) for b in whole]
    first = ClassBatches(DATA, 5, seed=1)
    for _, _batch in zip(range(2), first, strict=False):
        state = first.state_dict()
    again = ClassBatches(DATA, 5, seed=1)
    again.load_state_dict(state)
    assert all(torch.equal(a, b.index) for a, b in zip(epochs[2:4], again, strict=False))


def test_a_class_without_images_is_named() -> None:
    none = ImageSet(DATA.images, DATA.labels.clamp(max=4), DATA.classes, "toy")
    try:
        ClassBatches(none, 2)
    except InputError as error:
        assert "fox" in str(error)
    else:
        raise AssertionError
