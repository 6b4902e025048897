"""Every source of images, well and ill."""

import io
import json
import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from limbeck.data.load import load_data
from limbeck.errors import InputError

DRAWN = np.random.default_rng(0)


def picture(height=6, width=5, mode="RGB") -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(DRAWN.integers(0, 256, shape, dtype=np.uint8))


def encoded(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def tree(root, layout, make=picture):
    """Fill ``{"train/cat": 3}``; returns the arrays by path."""
    made = {}
    for folder, count in layout.items():
        (root / folder).mkdir(parents=True)
        for k in range(count):
            image = make()
            image.save(root / folder / f"{k:03}.png")
            made[f"{folder}/{k:03}"] = np.asarray(image)
    return made


def table(path, labels, images=None, metadata=None):
    images = [encoded(picture()) for _ in labels] if images is None else images
    held = pa.table({"image": images, "label": labels})
    parquet.write_table(held.replace_schema_metadata(metadata), path)
    return str(path)


def refused(reference, *said, **options):
    with pytest.raises(InputError) as caught:
        load_data(str(reference), **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in said:
        assert part in message, message
    return message


# --- digits


def test_digits_are_split_the_same_every_time():
    train, test = load_data("digits")
    assert train.shape == (1, 8, 8) and len(train) + len(test) == 1797 and len(train) == 1078
    assert train.classes == tuple("0123456789") and float(train.images.max()) == 1.0
    assert set(train.hashes).isdisjoint(test.hashes)
    assert max(test.labels.bincount() / (train.labels.bincount() + test.labels.bincount()) - 0.4) < 0.01
    assert load_data("digits").test.fingerprint == test.fingerprint
    assert load_data("digits", size=(16, 12)).test.shape == (1, 16, 12)


# --- folders


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_a_folder_with_a_test_folder(tmp_path, held_out):
    made = tree(tmp_path, {"train/cat": 3, "train/ant": 2, f"{held_out}/cat": 2})
    train, test = load_data(str(tmp_path))
    assert train.classes == test.classes == ("ant", "cat") and train.shape == (3, 6, 5)
    assert train.labels.tolist() == [0, 0, 1, 1, 1] and test.labels.tolist() == [1, 1]
    assert np.array_equal(train.images[2].permute(1, 2, 0), made["train/cat/000"])


def test_a_plain_folder_is_split_by_content(tmp_path):
    made = tree(tmp_path, {"cat": 10, "ant": 20})
    train, test = load_data(str(tmp_path))
    assert train.labels.bincount().tolist() == [16, 8] and test.labels.bincount().tolist() == [4, 2]
    assert len({*train.hashes, *test.hashes}) == len(made) == 30
    for folder in ("cat", "ant"):  # other file names, so another order
        for k, file in enumerate(sorted((tmp_path / folder).iterdir(), reverse=True)):
            file.rename(tmp_path / folder / f"new-{k:03}.png")
    assert set(load_data(str(tmp_path)).test.hashes) == set(test.hashes)


def test_images_of_several_sizes_get_the_commonest_and_say_so(tmp_path):
    tree(tmp_path, {"train/a": 3, "test/a": 1})
    picture(9, 9).save(tmp_path / "train" / "a" / "odd.png")
    with pytest.warns(UserWarning, match="1 of 4 images are resized to 6x5"):
        train, test = load_data(str(tmp_path))
    assert train.shape == test.shape == (3, 6, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_data(str(tmp_path), size=4).train.shape == (3, 4, 4)


def test_grey_stays_grey_unless_mixed(tmp_path):
    tree(tmp_path, {"train/a": 2, "test/a": 1}, lambda: picture(mode="L"))
    assert load_data(str(tmp_path)).train.shape == (1, 6, 5)
    picture().save(tmp_path / "train" / "a" / "colour.png")
    refused(tmp_path, "channels")
    picture().save(tmp_path / "test" / "a" / "colour.png")
    train = load_data(str(tmp_path)).train
    assert train.shape == (3, 6, 5) and torch.equal(train.images[0, 0], train.images[0, 2])


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    tree(tmp_path, {"train/a": 0, "test/a": 0})
    ramp = (np.arange(30, dtype=np.uint16).reshape(6, 5)) * 2000
    for part in ("train", "test"):
        Image.fromarray(ramp).save(tmp_path / part / "a" / "deep.png")
    assert np.array_equal(load_data(str(tmp_path)).train.images[0, 0], ramp // 257)


def test_folders_that_cannot_be_used(tmp_path):
    refused(tmp_path / "nowhere", "nowhere", "does not exist")
    refused("digit", "did you mean 'digits'")
    refused(tmp_path, "no folders of classes")
    picture().save(tmp_path / "loose.png")
    refused(tmp_path, "one folder a class")
    (tmp_path / "empty").mkdir()
    refused(tmp_path, "empty", "holds no images")
    (tmp_path / "empty" / "broken.png").write_bytes(encoded(picture())[:60])
    refused(tmp_path, "broken.png", "repair or drop it")
    (tmp_path / "empty" / "broken.png").write_bytes(b"not an image")
    refused(tmp_path, "broken.png", "repair or drop it")
    refused(tmp_path / "loose.png", "is no folder, .parquet or .npz file")
    refused("a,b,c", "a training and a test file")


def test_a_test_class_that_training_lacks(tmp_path):
    tree(tmp_path, {"train/a": 2, "train/b": 2, "test/c": 1})
    refused(tmp_path, "test, row 0", "'c'", "the classes are a, b")


def test_one_image_cannot_be_split(tmp_path):
    tree(tmp_path, {"a": 1})
    refused(tmp_path, "too few")


# --- parquet


def test_a_pair_of_parquet_files(tmp_path):
    pictures = [picture() for _ in range(4)]
    structs = [{"bytes": encoded(p), "path": "x"} for p in pictures]
    first = table(tmp_path / "first.parquet", pa.array([0, 2, 1, 0], pa.int8()), structs)
    second = table(tmp_path / "second.parquet", [1, 2])
    train, test = load_data(f"{first},{second}")
    assert train.labels.tolist() == [0, 2, 1, 0] and test.labels.tolist() == [1, 2]
    assert train.classes == ("0", "1", "2")
    assert np.array_equal(train.images[3].permute(1, 2, 0), np.asarray(pictures[3]))


def test_names_in_the_files_metadata_and_string_labels(tmp_path):
    features = {"info": {"features": {"label": {"names": ["cat", "dog", "eel"]}}}}
    meta = {"huggingface": json.dumps(features)}
    first = table(tmp_path / "a.parquet", [0, 1, -1], metadata=meta)
    second = table(tmp_path / "b.parquet", [1], metadata=meta)
    train, _ = load_data(f"{first},{second}")
    assert train.classes == ("cat", "dog", "eel") and train.labels.tolist() == [0, 1, -1]
    words = table(tmp_path / "c.parquet", ["dog", "cat", "dog"])
    train, test = load_data(f"{words},{table(tmp_path / 'd.parquet', ['dog'])}")
    assert train.classes == ("cat", "dog") and train.labels.tolist() == [1, 0, 1] and test.labels.tolist() == [1]
    refused(f"{words},{second}", "b.parquet")
    refused(f"{words},{table(tmp_path / 'e.parquet', [0])}", "e.parquet", "'dog'")


def test_patterns_and_folders_of_parquet(tmp_path):
    table(tmp_path / "train-00000-of-00002.parquet", [0, 1])
    table(tmp_path / "train-00001-of-00002.parquet", [1, 1])
    table(tmp_path / "test-00000-of-00001.parquet", [0])
    for reference in (f"{tmp_path}/train-*.parquet,{tmp_path}/test-*.parquet", str(tmp_path)):
        train, test = load_data(reference)
        assert train.labels.tolist() == [0, 1, 1, 1] and test.labels.tolist() == [0]


def test_parquet_that_cannot_be_used(tmp_path):
    refused(tmp_path / "none.parquet", "none.parquet", "does not exist")
    (tmp_path / "text.parquet").write_text("hello")
    refused(tmp_path / "text.parquet", "text.parquet", "no parquet file")
    parquet.write_table(pa.table({"picture": [b""], "label": [0]}), tmp_path / "x.parquet")
    refused(tmp_path / "x.parquet", "picture, label", "'image'")
    parquet.write_table(pa.table({"image": [b""]}), tmp_path / "y.parquet")
    refused(tmp_path / "y.parquet", "'label'")
    good = encoded(picture())
    refused(table(tmp_path / "z.parquet", [0, 0], [good, good[:50]]), "z.parquet, row 1", "repair or drop it")
    refused(table(tmp_path / "n.parquet", [0, 0], [good, None]), "n.parquet, row 1", "no encoded image")
    refused(table(tmp_path / "l.parquet", [0, None], [good, good]), "l.parquet, row 1", "label")
    refused(table(tmp_path / "f.parquet", [0.5, 1.0], [good, good]), "f.parquet, row 0", "0.5")
    refused(table(tmp_path / "u.parquet", [-1, -1], [good, good]), "no class is known")
    meta = {"huggingface": json.dumps({"info": {"features": {"label": {"names": ["cat"]}}}})}
    refused(table(tmp_path / "m.parquet", [0, 3], [good, good], meta), "m.parquet, row 1", "'3'")


# --- npz


def arrays(path, **held):
    np.savez(path, **held)
    return str(path)


def test_npz_in_every_layout(tmp_path):
    grey = DRAWN.integers(0, 256, (10, 6, 5), dtype=np.uint8)
    label = np.arange(10) % 2
    train, test = load_data(
        arrays(tmp_path / "a.npz", image=grey, label=label, image_test=grey[:3], label_test=label[:3])
    )
    assert np.array_equal(train.images[:, 0], grey) and len(test) == 3 and train.classes == ("0", "1")
    colour = DRAWN.random((10, 6, 5, 3))
    held = load_data(
        arrays(tmp_path / "b.npz", image=colour, label=label[:, None], classes=np.array(["x", "y"]), image_test=colour,
               label_test=label)
    )  # fmt: skip
    assert held.train.shape == (3, 6, 5) and held.train.classes == ("x", "y")
    assert torch.allclose(held.train.images, torch.from_numpy(colour).float().permute(0, 3, 1, 2))
    assert len(load_data(arrays(tmp_path / "c.npz", image=grey[:, None], label=label)).test) == 2


def test_npz_that_cannot_be_used(tmp_path):
    image, label = np.zeros((4, 6, 5), np.uint8), np.array([0, 1, 0, 1])
    refused(tmp_path / "none.npz", "does not exist")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    refused(tmp_path / "torn.npz", "torn.npz", "cannot be read")
    refused(arrays(tmp_path / "k.npz", x=image), "no array 'image', but x")
    refused(arrays(tmp_path / "j.npz", image=image, label=label, image_test=image), "'label_test'")
    refused(arrays(tmp_path / "o.npz", image=np.array([{}, {}], object), label=label), "never read")
    refused(arrays(tmp_path / "d.npz", image=image[0], label=label), "[6, 5]")
    refused(arrays(tmp_path / "s.npz", image=np.full((4, 6, 5), "x"), label=label), "must be numbers")
    nan = np.full((4, 6, 5), 0.5)
    nan[2, 3, 3] = np.nan
    refused(arrays(tmp_path / "n.npz", image=nan, label=label), "n.npz, row 2", "NaN")
    refused(arrays(tmp_path / "r.npz", image=image.astype(float) + 200, label=label), "scale floats")
    refused(arrays(tmp_path / "i.npz", image=image.astype(int) + 300, label=label), "0 to 255")
    refused(arrays(tmp_path / "l.npz", image=image, label=label[:3]), "(4,)")
    refused(arrays(tmp_path / "g.npz", image=image, label=label * 4 - 3), "row 0", "-3")
    refused(arrays(tmp_path / "h.npz", image=image, label=label / 2), "whole numbers")
    refused(arrays(tmp_path / "e.npz", image=image[:0], label=label[:0]))


# --- the Hub


def test_a_hub_data_set_and_its_absence(monkeypatch):
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    pictures = [picture() for _ in range(4)]

    def rows(chosen, labels):
        images = [{"bytes": encoded(p), "path": None} for p in chosen]
        return datasets.Dataset.from_dict({"img": images, "label": labels}, features=features)

    held = datasets.DatasetDict(train=rows(pictures, [0, 1, 1, 0]), test=rows(pictures[:1], [1]))
    monkeypatch.setattr(datasets, "load_dataset", lambda reference: held)
    train, test = load_data("somebody/pets")
    assert train.classes == ("cat", "dog") and train.labels.tolist() == [0, 1, 1, 0] and test.labels.tolist() == [1]
    assert np.array_equal(train.images[2].permute(1, 2, 0), np.asarray(pictures[2]))

    def offline(reference):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    refused("somebody/pets", "somebody/pets", "no route to host")
    monkeypatch.setattr(datasets, "load_dataset", lambda reference: datasets.DatasetDict(all=held["train"]))
    refused("somebody/pets", "no split 'train', but all")
