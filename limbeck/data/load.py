"""Where images come from: scikit-learn's digits, folders, parquet, npz, the Hugging Face Hub."""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import glob
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.data.images import DataPair, ImageSet
from limbeck.data.noise import resized
from limbeck.errors import InputError, brief, nearest

__all__ = ["load_data"]

TEST_SHARE = 0.2  # of every class, where a source brings no test images of its own
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
COLUMNS = ("image", "img"), ("label", "labels")
Size = int | tuple[int, int] | None


@dataclass(frozen=True)
class _Raw:
    """What a source holds before classes are numbered; ``names`` are the classes' where the source tells."""

    where: str
    images: Tensor
    labels: Sequence[Any]
    names: tuple[str, ...] | None = None


def load_data(reference: str, *, size: Size = None) -> DataPair:
    """The training and the test images that a reference names, in memory.

    Args:
        reference: one of

            - ``digits``: scikit-learn's 1,797 digits of 1x8x8, 60 % to train on;
            - a folder ``train/CLASS/*.png`` beside ``test`` or ``val``, or ``CLASS/*.png`` alone (classes in
              alphabetical order), or one of parquet files named ``train...`` and ``test...``;
            - ``train.parquet,test.parquet``, or one file or pattern: columns ``image`` (encoded bytes) and ``label``;
            - a ``.npz`` with ``image`` (N, H, W), (N, C, H, W) or (N, H, W, 3), ``label``, and perhaps ``image_test``,
              ``label_test``, ``classes``;
            - ``owner/name`` on the Hugging Face Hub.

            A source without test images gives a fifth of every class, chosen by content, so always the same one.
        size: (height, width) to resize every image to, or one number for a square. When left out, images of several
            sizes get the commonest, with a warning.

    Raises:
        InputError: in one line that names the file or the row.
    """
    parts = [part.strip() for part in reference.split(",")]
    path = Path(reference).expanduser()
    if not all(parts) or len(parts) > 2:
        raise InputError("data", reference, "must be one source, or a training and a test file with a comma between")
    if reference == "digits":
        train, test = _digits()
    elif all(part.endswith(".parquet") for part in parts):
        train, test = _parquet(parts[0], size), _parquet(parts[1], size) if len(parts) == 2 else None
    elif path.suffix == ".npz":
        train, test = _npz(path)
    elif path.is_dir():
        train, test = _folder(path, size)
    elif path.is_file():
        raise InputError("data", reference, "is no folder, .parquet or .npz file")
    elif re.fullmatch(r"[\w-]+/[\w.-]+", reference):
        train, test = _hub(reference, size)
    else:
        raise InputError(
            "data", reference, "does not exist" + ("" if "/" in reference else nearest(reference, ["digits"]))
        )
    return _pair(train, test, size)


def _pair(train: _Raw, test: _Raw | None, size: Size) -> DataPair:
    """Number the classes, bring both sets to one shape, and cut off a test set where there is none."""
    names = train.names or _names(train)
    if test is not None and train.names is None and {type(label) for label in (*train.labels, *test.labels)} == {int}:
        names = max(names, _names(test), key=len)
    first = _numbered(train, names)
    first = first if size is None else resized(first, size)
    if test is None:
        return DataPair(*first.split(TEST_SHARE))
    if test.names and test.names != names:
        raise InputError(test.where, ", ".join(test.names), "are its classes; the training images have others")
    if {type(label) for label in test.labels} != {type(label) for label in train.labels}:
        raise InputError(
            test.where, test.labels[0], f"is a label; the training images have such as {train.labels[0]!r}"
        )
    second = resized(_numbered(test, names), first.shape[1:])
    if second.shape != first.shape:
        raise InputError(test.where, second.shape[0], f"are its channels; the training images have {first.shape[0]}")
    return DataPair(first, second)


def _names(raw: _Raw) -> tuple[str, ...]:
    """The classes that the labels name: 0 to the largest number, or the strings in alphabetical order."""
    for row, label in enumerate(raw.labels):
        if type(label) not in (int, str) or type(label) is not type(raw.labels[0]):
            raise InputError(f"{raw.where}, row {row}", label, "is its label; use whole numbers or strings throughout")
    if raw.labels and isinstance(raw.labels[0], int):
        if max(raw.labels) < 0:
            raise InputError(raw.where, max(raw.labels), "is the largest label, so that no class is known; give labels")
        return tuple(str(k) for k in range(max(raw.labels) + 1))
    return tuple(sorted(set(raw.labels)))


def _numbered(raw: _Raw, names: tuple[str, ...]) -> ImageSet:
    known: dict[Any, int] = {name: k for k, name in enumerate(names)} | {k: k for k in range(-1, len(names))}
    for row, label in enumerate(raw.labels):
        if label not in known or isinstance(label, bool | float):
            fix = f"is its label; the classes are {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
            raise InputError(f"{raw.where}, row {row}", label, fix)
    return ImageSet(raw.images, torch.tensor([known[label] for label in raw.labels]), names, raw.where)


def _digits() -> tuple[_Raw, _Raw]:
    from sklearn.datasets import load_digits

    images, target = load_digits(return_X_y=True)
    pixels = torch.from_numpy(images / 16).float().view(-1, 1, 8, 8)
    train, test = ImageSet(pixels, torch.from_numpy(target).long(), tuple("0123456789"), "digits").split(0.4)
    return _of(train, "digits train"), _of(test, "digits test")


def _of(data: ImageSet, where: str) -> _Raw:
    return _Raw(where, data.images, data.labels.tolist(), data.classes)


def _folder(path: Path, size: Size) -> tuple[_Raw, _Raw | None]:
    tables = sorted(str(file) for file in path.rglob("*.parquet"))
    if tables:
        found = [[t for t in tables if Path(t).name.startswith(kinds)] for kinds in ("train", ("test", "val"))]
        if not found[0]:
            raise InputError("data", str(path), "has parquet files, but none whose name starts with 'train'")
        return _tables(str(path / "train*"), found[0], size), (
            _tables(str(path / "test*"), found[1], size) if found[1] else None
        )
    if not (path / "train").is_dir():
        return _classes(path, size), None
    for name in ("test", "val", "valid", "validation"):
        if (path / name).is_dir():
            return _classes(path / "train", size), _classes(path / name, size)
    return _classes(path / "train", size), None


def _classes(path: Path, size: Size) -> _Raw:
    folders = sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))
    if not folders:
        raise InputError("data", str(path), "has no folders of classes; put the images into one folder a class")
    files, labels = list[Path](), list[str]()
    for folder in folders:
        found = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)
        if not found:
            raise InputError(
                "data", str(folder), f"holds no images ({', '.join(sorted(SUFFIXES))}); fill it or remove it"
            )
        files += found
        labels += [folder.name] * len(found)
    return _Raw(str(path), _decode(((str(f), f) for f in files), str(path), size), labels)


def _parquet(pattern: str, size: Size) -> _Raw:
    files = sorted(glob(str(Path(pattern).expanduser())))  # noqa: PTH207
    if not files:
        raise InputError("data", pattern, "does not exist")
    return _tables(pattern, files, size)


def _tables(where: str, files: Sequence[str], size: Size) -> _Raw:
    import pyarrow as pa
    from pyarrow import parquet

    images, labels, names = list[tuple[str, Any]](), list[Any](), None
    for file in files:
        try:
            table = parquet.read_table(file)
        except (pa.ArrowException, OSError) as error:
            raise InputError("data", file, f"is no parquet file that can be read: {brief(error)}") from None
        image, label = _columns(file, table.column_names)
        held = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        names = held.get("info", {}).get("features", {}).get(label, {}).get("names") or names
        images += [(f"{file}, row {row}", content) for row, content in enumerate(table[image].to_pylist())]
        labels += table[label].to_pylist()
    return _Raw(where, _decode(images, where, size), labels, None if names is None else tuple(names))


def _columns(where: str, given: Sequence[str]) -> list[str]:
    for wanted in COLUMNS:
        if not set(wanted) & set(given):
            raise InputError(where, ", ".join(given), f"are its columns; it needs {wanted[0]!r}")
    return [next(name for name in wanted if name in given) for wanted in COLUMNS]


def _hub(reference: str, size: Size) -> tuple[_Raw, _Raw | None]:
    import datasets

    try:
        held = datasets.load_dataset(reference)
    except Exception as error:  # the library raises whatever the network, the Hub or the builder did
        reason = f"{type(error).__name__}: {brief(error)}"
        raise InputError("data", reference, f"is no folder here, nor to be had from the Hub ({reason})") from None
    tests = [name for name in ("test", "validation", "val") if name in held]
    if "train" not in held:
        raise InputError("data", reference, f"has no split 'train', but {', '.join(map(str, held))}")
    raws = list[_Raw]()
    for split in ("train", *tests[:1]):
        rows, where = held[split], f"{reference} {split}"
        image, label = _columns(where, rows.column_names)
        rows = rows.cast_column(image, datasets.Image(decode=False))
        items = ((f"{where}, row {k}", content) for k, content in enumerate(rows[image]))
        names = getattr(rows.features[label], "names", None)
        raws.append(_Raw(where, _decode(items, where, size), list(rows[label]), tuple(names) if names else None))
    return raws[0], raws[1] if len(raws) > 1 else None


def _npz(path: Path) -> tuple[_Raw, _Raw | None]:
    if not path.is_file():
        raise InputError("data", str(path), "does not exist")
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = {key: held[key] for key in held.files}
    except Exception as error:  # zipfile, zlib and numpy each have their own for a damaged file
        reason = "it holds Python objects, which are never read" if "pickle" in str(error) else brief(error)
        raise InputError("data", str(path), f"cannot be read as .npz: {reason}") from None
    for key in ("image", "label") + (("label_test",) if "image_test" in arrays else ()):
        if key not in arrays:
            raise InputError("data", str(path), f"has no array {key!r}, but {', '.join(arrays) or 'nothing'}")
    names = tuple(map(str, arrays["classes"])) if "classes" in arrays else None
    train = _Raw(f"{path}", _pixels(arrays["image"], f"{path}"), _labels(arrays["label"], f"{path}"), names)
    if "image_test" not in arrays:
        return train, None
    where = f"{path} (test)"
    return train, _Raw(where, _pixels(arrays["image_test"], where), _labels(arrays["label_test"], where), names)


def _pixels(array: np.ndarray, where: str) -> Tensor:
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or not (array.dtype == bool or np.issubdtype(array.dtype, np.number)):
        said = f"{array.dtype} {list(array.shape)}"
        raise InputError(where, said, "are its images; they must be numbers of shape (N, H, W) or (N, C, H, W)")
    if array.shape[3] in (1, 3) and array.shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if np.issubdtype(array.dtype, np.floating):
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))
    if array.size and (array.min() < 0 or array.max() > 255):
        raise InputError(where, f"{array.min()} to {array.max()}", "is the pixels' range; whole numbers are 0 to 255")
    return torch.from_numpy(np.ascontiguousarray(array * 255 if array.dtype == bool else array).astype(np.uint8))


def _labels(array: np.ndarray, where: str) -> list[Any]:
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1 or array.dtype.kind not in "iuU":
        said = f"{array.dtype} {list(array.shape)}"
        raise InputError(where, said, "are its labels; they must be (N,) whole numbers or strings")
    return array.tolist()


def _decode(items: Iterable[tuple[str, Any]], where: str, size: Size) -> Tensor:
    """Encoded images (paths, bytes, or ``{"bytes": ...}``) as one uint8 tensor: grey if all are, else RGB."""
    from PIL import Image, ImageOps

    wanted = (size, size) if isinstance(size, int) else size
    arrays = list[np.ndarray]()

    def fit(array: np.ndarray, height: int, width: int) -> np.ndarray:
        return np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR))

    for name, content in items:
        content = content.get("bytes") if isinstance(content, dict) else content
        if not isinstance(content, bytes | Path):
            raise InputError(name, content, "is no encoded image (PNG, JPEG, ... bytes)")
        try:
            with Image.open(BytesIO(content) if isinstance(content, bytes) else content) as image:
                if image.mode.startswith("I"):  # 16 bits a pixel, which convert would clip
                    image = Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8))
                grey = image.mode in ("1", "L", "LA", "F")
                array = np.asarray(ImageOps.exif_transpose(image).convert("L" if grey else "RGB"))
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise InputError(
                name, type(error).__name__, f"came of reading this image ({brief(error)}); repair or drop it"
            ) from None
        arrays.append(array if wanted is None else fit(array, *wanted))
    if not arrays:
        raise InputError("data", where, "holds no images")
    height, width = Counter(array.shape[:2] for array in arrays).most_common(1)[0][0]
    other = sum(array.shape[:2] != (height, width) for array in arrays)
    if other:
        warnings.warn(f"{where}: {other} of {len(arrays)} images are resized to {height}x{width}", stacklevel=2)
        arrays = [a if a.shape[:2] == (height, width) else fit(a, height, width) for a in arrays]
    if any(array.ndim == 3 for array in arrays):
        arrays = [a if a.ndim == 3 else np.repeat(a[..., None], 3, axis=2) for a in arrays]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return torch.from_numpy(np.stack(arrays))[:, None]
