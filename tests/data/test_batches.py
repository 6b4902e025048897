"""Batches: what one holds, in which order they come, and that a killed stream goes on with the same bits."""

import itertools

import pytest
import torch
from torch.utils import _pytree as pytree

from limbeck.data.batches import Batches, Images
from limbeck.data.images import ImageSet
from limbeck.errors import InputError


def coloured(rows: int = 50, shape=(3, 12, 12), classes: int = 5, seed: int = 0) -> ImageSet:
    drawn = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (rows, *shape), generator=drawn, dtype=torch.uint8)
    return ImageSet(images, torch.arange(rows) % classes, tuple("abcdefgh"[:classes]))


def same(a: Images, b: Images) -> bool:
    return all((p is None and q is None) or torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_a_batch_holds_the_rows_that_its_index_names():
    data = coloured()
    seen = []
    for batch in Batches(data, 8):
        assert batch.x.dtype == torch.float32 and batch.y.dtype == batch.index.dtype == torch.int64
        assert torch.equal(batch.x, data.images[batch.index].float() / 255)
        assert torch.equal(batch.y, data.labels[batch.index])
        seen += batch.index.tolist()
    assert sorted(seen) == list(range(50)) and seen != list(range(50))


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [16, 16, 16, 2]), (True, [16, 16, 16])])
def test_the_last_batch_is_kept_or_dropped(drop_last, sizes):
    batches = Batches(coloured(), 16, drop_last=drop_last)
    assert [len(b.y) for b in batches] == sizes and len(batches) == len(sizes)


def test_orders_are_a_function_of_seed_and_epoch_alone():
    def orders(seed, epochs=3):
        batches = Batches(coloured(), 50, seed=seed)
        return [tuple(next(iter(batches)).index.tolist()) for _ in range(epochs)]

    torch.manual_seed(1)
    first = orders(0)
    torch.manual_seed(2)
    assert first == orders(0)
    assert len({*first, *orders(1), *orders(2)}) == 9, "no two (seed, epoch) share an order"


def test_iterating_leaves_the_global_generator_alone_without_augmentation():
    before = torch.get_rng_state()
    list(Batches(coloured(), 8))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("taken", [0, 1, 3, 4, 5, 7, 8, 9])
@pytest.mark.parametrize("teacher_view", ["same", "separate", "clean"])
def test_resume_is_bit_exact_at_any_place(taken, teacher_view):
    def make():
        return Batches(coloured(), 16, seed=3, augment="crop+flip", teacher_view=teacher_view)

    torch.manual_seed(0)
    batches = make()
    stream = itertools.chain.from_iterable(itertools.repeat(batches))  # 4 batches an epoch
    for _ in range(taken):
        next(stream)
    position, random = batches.state_dict(), torch.get_rng_state()
    straight = [next(stream) for _ in range(6)]
    torch.manual_seed(99)
    resumed = make()
    resumed.load_state_dict(position)
    torch.set_rng_state(random)
    again = itertools.chain.from_iterable(itertools.repeat(resumed))
    assert all(same(a, next(again)) for a in straight)


def test_a_position_of_other_data_is_refused():
    position = Batches(coloured(), 16).state_dict()
    with pytest.raises(InputError, match="rows"):
        Batches(coloured(40), 16).load_state_dict(position)
    with pytest.raises(InputError, match="seed"):
        Batches(coloured(), 16, seed=1).load_state_dict(position)


def test_what_the_teacher_sees():
    data = coloured()
    plain = next(iter(Batches(data, 8)))
    assert plain.view is None and plain.teacher_x is plain.x
    one = next(iter(Batches(data, 8, augment="crop")))
    assert one.view is None and not torch.equal(one.x, plain.x), "augmented, and one view for both"
    two = next(iter(Batches(data, 8, augment="crop", teacher_view="separate")))
    assert two.teacher_x is two.view and not torch.equal(two.x, two.view) and not torch.equal(two.view, plain.x)
    clean = next(iter(Batches(data, 8, augment="crop", teacher_view="clean")))
    assert torch.equal(clean.teacher_x, plain.x) and not torch.equal(clean.x, plain.x)


def test_an_augmentation_may_be_a_function():
    dark = next(iter(Batches(coloured(), 8, augment=lambda x: x * 0, teacher_view="clean")))
    assert dark.x.sum() == 0 and dark.view.sum() > 0


@pytest.mark.parametrize("view", [None, torch.rand(4, 1, 2, 2)])
def test_batches_are_trees_that_libraries_can_walk(view):
    from accelerate.utils import send_to_device

    batch = Images(torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.long), torch.arange(4), view)
    doubled = pytree.tree_map_only(torch.Tensor, lambda t: t * 2, batch)
    assert isinstance(doubled, Images) and torch.equal(doubled.x, batch.x * 2)
    for moved in (send_to_device(batch, torch.device("cpu")), batch.to("cpu")):
        assert isinstance(moved, Images) and same(moved, batch)
    assert batch.to("meta").x.device.type == "meta"


def test_plain_is_ordered_and_unaugmented_and_with_data_starts_anew():
    batches = Batches(coloured(), 16, seed=7, augment="crop", teacher_view="clean", drop_last=True)
    x = torch.cat([b.x for b in batches.plain(20)])
    assert torch.equal(x, batches.dataset.images.float() / 255)
    first = next(iter(batches)).index
    next(iter(batches))
    other = batches.with_data(batches.dataset)
    assert torch.equal(next(iter(other)).index, first), "the first epoch again"
    settings = ("batch", "seed", "shuffle", "drop_last", "augment", "teacher_view")
    assert all(getattr(other, s) == getattr(batches, s) for s in settings)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batch": 0}, "batch"),
        ({"batch": 64, "drop_last": True}, "at most 50"),
        ({"teacher_view": "seperate"}, "'separate'"),
        ({"teacher_view": "separate"}, "needs an augmentation"),
        ({"teacher_view": "separate", "augment": "none"}, "needs an augmentation"),
        ({"augment": "corp"}, "did you mean 'crop'"),
    ],
)
def test_settings_that_cannot_be(arguments, said):
    with pytest.raises(InputError, match=said):
        Batches(coloured(), **arguments)
