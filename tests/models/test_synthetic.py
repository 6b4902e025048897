"""Synthetic sets: what is decoded, what learns, and what it costs, labels and shared parts included."""

import pytest
import torch

from limbeck.errors import InputError
from limbeck.models.synthetic import Plain, Shared, SyntheticSet, Tiled, initial
from tests.worlds import vision_world

DATA = vision_world().train


def test_it_begins_as_real_images_of_its_classes() -> None:
    made = initial(DATA, 2, seed=1)
    x, y = DATA.take(torch.arange(len(DATA)))
    for image, label in zip(made(), made.y, strict=True):
        same = (x == image).flatten(1).all(1).nonzero()
        assert len(same) and int(y[same[0, 0]]) == int(label)
    assert made.y.tolist() == [k for k in range(6) for _ in range(2)] and torch.equal(
        made(), initial(DATA, 2, seed=1)()
    )
    assert made.of_class(3).tolist() == [6, 7]


def test_tiles_are_smaller_images_enlarged_and_cost_the_same() -> None:
    plain, tiled = initial(DATA, 2), initial(DATA, 2, factor=2)
    assert len(tiled) == 4 * len(plain) and tiled().shape == (48, 3, 16, 16)
    assert tiled.budget == plain.budget == (12, 12 * 768, 12, 0)
    stored = tiled.images.pixels
    corner = torch.nn.functional.interpolate(stored[1:2, :, :8, 8:], (16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(tiled()[5:6], corner)
    assert tiled.y[:8].tolist() == [0] * 8
    with pytest.raises(InputError, match="must divide"):
        Tiled(torch.rand(2, 3, 16, 16), 3)


def test_shared_patterns_are_counted_once_and_learn_for_every_class() -> None:
    base = torch.rand(6, 3, 16, 16)
    made = SyntheticSet(Shared(base, 2), torch.arange(6), DATA.classes)
    assert len(made) == 18 and made.budget.pixels == 6 * 768 + 2 * 768
    torch.testing.assert_close(made()[::3], base)
    made()[1::3].sum().backward()
    assert made.images.patterns.grad is not None
    assert (
        made.images.patterns.grad[0].unique().tolist() == [6.0] and float(made.images.patterns.grad[1].abs().max()) == 0
    )


def test_soft_labels_and_rates_are_counted_and_positive() -> None:
    made = SyntheticSet(
        Plain(torch.rand(6, 3, 16, 16)), torch.arange(6), DATA.classes, targets=torch.eye(6), rates=(0.02, 0.1)
    )
    assert made.budget == (6, 6 * 768, 36, 2) and made.budget.total == 6 * 768 + 38
    torch.testing.assert_close(made.rates, torch.tensor([0.02, 0.1]))
    kept = made.exported()
    assert kept.classes == DATA.classes and float(kept.images.min()) >= 0 and float(kept.images.max()) <= 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: initial(DATA, 1000), "has 24"),
        (lambda: SyntheticSet(Plain(torch.rand(2, 3, 4, 4)), torch.tensor([0, 9]), DATA.classes), "rows of a class"),
        (
            lambda: SyntheticSet(Plain(torch.rand(1, 3, 4, 4)), torch.tensor([0]), DATA.classes, rates=(0.0,)),
            "step size",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(make, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()
