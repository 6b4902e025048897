"""Augmentations: every sample a draw of its own, from the generator that checkpoints keep."""

import pytest
import torch

from limbeck.data.augment import NAMES, augmentation
from limbeck.errors import InputError

REAL = [name for name in NAMES if name != "none"]


@pytest.mark.parametrize("name", REAL)
def test_draws_are_per_sample_from_the_global_generator(name):
    x = torch.rand(1, 3, 16, 16).expand(32, -1, -1, -1)
    apply = augmentation(name, (3, 16, 16))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, second = apply(x), apply(x)
    assert first.shape == x.shape and first.dtype == torch.float32
    assert first.min() >= 0.0 and first.max() <= 1.0
    assert len({row.numpy().tobytes() for row in first}) > 1, "samples differ"
    assert not torch.equal(first, second), "so do calls"
    torch.set_rng_state(state)
    assert torch.equal(augmentation(name, (3, 16, 16))(x), first), "a restored generator gives the same draws"


def test_flip_mirrors_half_of_the_images():
    x = torch.rand(200, 1, 4, 6)
    torch.manual_seed(0)
    y = augmentation("flip", (1, 4, 6))(x)
    kept = (y == x).flatten(1).all(1)
    assert torch.equal(y[~kept], x[~kept].flip(-1)) and 70 < kept.sum() < 130


def test_crop_is_a_window_of_the_image_padded_by_an_eighth():
    x = 0.1 + 0.9 * torch.rand(64, 1, 32, 24)
    torch.manual_seed(0)
    y = augmentation("crop", (1, 32, 24))(x)
    wide = torch.nn.functional.pad(x, (3, 3, 4, 4))
    windows = wide.unfold(2, 32, 1).unfold(3, 24, 1)[:, 0]  # (B, 9, 7, 32, 24): all there are
    hits = (windows - y[:, 0, None, None]).abs().amax((-1, -2)) < 1e-5
    assert hits.flatten(1).any(1).all()
    assert hits.any(0).sum() > 30, "windows vary in both directions"


def test_names_chain_in_their_order():
    x = torch.rand(8, 3, 16, 16)
    torch.manual_seed(0)
    by_hand = augmentation("flip", (3, 16, 16))(augmentation("crop", (3, 16, 16))(x))
    for names in ("crop+flip", "crop + flip", "cifar", "crop+none+flip"):
        torch.manual_seed(0)
        assert torch.equal(augmentation(names, (3, 16, 16))(x), by_hand)
    assert augmentation("none", (3, 16, 16)) is None


@pytest.mark.parametrize("name", [*REAL, "shift+rotate", "cifar+colour+erase"])
def test_draws_made_before_are_those_of_one_call_whatever_part_is_asked_for(name):
    x = torch.rand(12, 3, 16, 16)
    change = augmentation(name, (3, 16, 16))
    torch.manual_seed(0)
    whole, after = change(x), torch.rand(1)
    torch.manual_seed(0)
    drawn = change.draw(12)
    assert torch.equal(torch.rand(1), after)
    for rows in (slice(8, 12), slice(0, 4), slice(4, 8), slice(0, 4)):
        torch.testing.assert_close(drawn(x[rows], rows), whole[rows], rtol=0, atol=1e-6)


def test_bad_names_and_channels():
    with pytest.raises(InputError, match="did you mean 'rotate'"):
        augmentation("crop+rotat", (3, 8, 8))
    with pytest.raises(InputError, match="3 channels, not 1"):
        augmentation("colour", (1, 8, 8))
