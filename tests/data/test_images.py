"""Image sets: hashes by content, stratified choices, known damage, refused contents."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from limbeck.data.images import ImageSet
from limbeck.data.noise import limit, resized, shifted, with_label_noise
from limbeck.errors import InputError

ROOT = Path(__file__).parents[2]


def grey(rows: int = 60, classes: int = 3) -> ImageSet:
    images = torch.randint(0, 256, (rows, 1, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageSet(images, torch.arange(rows) % classes, tuple("abcdef"[:classes]), "grey")


def test_hashes_name_contents_wherever_they_stand():
    data = grey()
    mixed = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    assert len(set(data.hashes)) == 60 and all(len(h) == 16 for h in data.hashes)
    assert data.subset(mixed).hashes == tuple(data.hashes[k] for k in mixed)
    turned = ImageSet(data.images.reshape(60, 1, 5, 6), data.labels, data.classes)
    assert not set(turned.hashes) & set(data.hashes), "the shape is part of the content"
    assert turned.fingerprint != data.fingerprint == grey().fingerprint


def test_hashes_are_the_same_in_another_process():
    script = "from tests.data.test_images import grey; d = grey(); print(d.fingerprint, d.hashes[7])"
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert said == [grey().fingerprint, grey().hashes[7]]


def test_the_fingerprint_sees_labels_and_names():
    data, labels = grey(), grey().labels.clone()
    labels[0] = 2
    others = [ImageSet(data.images, labels, data.classes), ImageSet(data.images, data.labels, ("a", "b", "z"))]
    assert len({data.fingerprint, *(o.fingerprint for o in others)}) == 3


def test_take_scales_bytes_and_passes_floats():
    x, y = grey().take(torch.tensor([3, 1]))
    assert torch.equal(x, grey().images[[3, 1]] / 255) and y.tolist() == [0, 1]
    floats = ImageSet(torch.rand(2, 1, 3, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.long), ("a",))
    assert floats.take(torch.tensor([0]))[0].dtype == torch.float32


@pytest.mark.parametrize("seed", [0, 1])
def test_split_is_stratified_disjoint_and_a_function_of_content(seed):
    data = grey()
    rest, part = data.split(0.3, seed)
    assert part.labels.bincount().tolist() == [6, 6, 6] and rest.labels.bincount().tolist() == [14, 14, 14]
    assert set(rest.hashes).isdisjoint(part.hashes) and {*rest.hashes, *part.hashes} == set(data.hashes)
    backwards = data.subset(range(59, -1, -1)).split(0.3, seed)[1]
    assert set(backwards.hashes) == set(part.hashes), "the rows' order does not matter"
    assert set(data.split(0.3, seed + 2)[1].hashes) != set(part.hashes)


def test_split_keeps_equal_images_together():
    data = grey().subset([*range(60), *range(60)])
    for seed in range(5):
        rest, part = data.split(0.5, seed)
        assert set(rest.hashes).isdisjoint(part.hashes)


def test_limits_are_nested_and_balanced():
    data = grey()
    few, more = data.limited(count=9), data.limited(count=30)
    assert few.labels.bincount().tolist() == [3, 3, 3] and len(more) == 30
    assert set(few.hashes) < set(more.hashes)
    assert data.limited(per_class=4).labels.bincount().tolist() == [4, 4, 4]
    assert set(data.limited(per_class=4, seed=1).hashes) != set(data.limited(per_class=4).hashes)
    assert limit(data, 9, 3).fingerprint == data.limited(count=9, seed=3).fingerprint and len(limit(data, 99)) == 60
    for wrong in ({}, {"count": 3, "per_class": 3}, {"count": 0}):
        with pytest.raises(InputError):
            data.limited(**wrong)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.4, 1.0])
def test_label_noise_makes_exactly_that_share_wrong_and_spreads_it(fraction):
    data = grey(3000)
    noisy = with_label_noise(data, fraction, seed=1)
    wrong = noisy.labels != data.labels
    assert int(wrong.sum()) == round(3000 * fraction)
    assert torch.equal(noisy.images, data.images) and torch.equal(
        with_label_noise(data, fraction, 1).labels, noisy.labels
    )
    if fraction:
        steps = ((noisy.labels - data.labels) % 3)[wrong].bincount(minlength=3).float() / wrong.sum()
        assert steps[0] == 0 and abs(float(steps[1]) - 0.5) < 0.06, "both other classes alike"
    unknown = ImageSet(data.images, torch.full((3000,), -1), data.classes)
    assert with_label_noise(unknown, 1.0).labels.unique().tolist() == [-1]


def test_label_noise_refuses_nonsense():
    with pytest.raises(InputError):
        with_label_noise(grey(), 1.5)
    with pytest.raises(InputError):
        with_label_noise(grey(classes=1), 0.5)


def test_shifted_moves_whole_images():
    data = grey()
    moved = shifted(data, 2)
    places = set()
    for before, after in zip(data.images[:, 0], moved.images[:, 0], strict=True):
        wide = torch.nn.functional.pad(before, [2] * 4)
        fits = [(y, x) for y in range(5) for x in range(5) if torch.equal(wide[y : y + 6, x : x + 5], after)]
        assert fits
        places |= set(fits)
    assert len(places) > 10
    assert torch.equal(shifted(data, 0).images, data.images)


def test_resized_keeps_kind_and_range():
    ramp = torch.arange(16, dtype=torch.uint8).repeat(1, 1, 16, 1) * 16
    data = ImageSet(ramp, torch.zeros(1, dtype=torch.long), ("a",))
    half = resized(data, 8)
    assert half.shape == (1, 8, 8) and half.images.dtype == torch.uint8
    assert (half.images[0, 0, 0, 1:-1] == 8 + 32 * torch.arange(1, 7)).all(), "averages of neighbours"
    assert resized(data, (16, 16)) is data
    with pytest.raises(InputError):
        resized(data, 0)


IMAGES, LABELS = torch.rand(4, 1, 3, 3), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("images", "labels", "classes", "said"),
    [
        (IMAGES[0], LABELS, ("a", "b"), "must be \\(N, C, H, W\\)"),
        (IMAGES[:0], LABELS[:0], ("a", "b"), "none of them 0"),
        (IMAGES.int(), LABELS, ("a", "b"), "uint8 or float"),
        (IMAGES, LABELS[:3], ("a", "b"), "must be int64 of shape \\(4,\\)"),
        (IMAGES, LABELS.int(), ("a", "b"), "must be int64"),
        (IMAGES, LABELS, ("a",), "row 1: '1' is its label; there are 1 classes"),
        (IMAGES, LABELS - 2, ("a", "b"), "row 0: '-2'"),
        (IMAGES, LABELS, ("a", "a"), "names must differ"),
        (IMAGES * 255, LABELS, ("a", "b"), "scale floats"),
        (IMAGES - 0.9, LABELS, ("a", "b"), "scale floats"),
        (torch.where(torch.arange(4).view(4, 1, 1, 1) == 2, torch.nan, IMAGES), LABELS, ("a", "b"), "row 2: 'NaN'"),
    ],
)
def test_contents_that_cannot_be(images, labels, classes, said):
    with pytest.raises(InputError, match=said) as caught:
        ImageSet(images, labels, classes)
    assert "\n" not in str(caught.value)
