"""Synthetic sets in folders: written so that they are read back bit for bit, and so that anybody else can use them.

A folder holds ``set.safetensors`` and ``set.json``, which :func:`load_set` reads; ``images.parquet``, the decoded
images as PNG with their classes, in the form of a Hub data set; and ``picture.png`` for people. There is no pickle.
"""

from __future__ import annotations

import inspect
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limbeck.core.checkpoint import atomic_folder
from limbeck.errors import InputError, brief
from limbeck.models import use as uses
from limbeck.models.classifier import Classifier
from limbeck.models.load import load_classifier, save_classifier
from limbeck.models.synthetic import Plain, Shared, SyntheticSet, Tiled
from limbeck.models.use import Use

__all__ = ["load_set", "picture", "save_set"]

ACROSS = 10  # images of a class in a picture


def save_set(made: SyntheticSet, folder: Path) -> None:
    """Write a set; the folder is whole or not there.

    Raises:
        InputError: for a set whose use cannot be kept, and when nothing can be written.
    """
    kind = type(made.images).__name__
    facts: dict[str, Any] = {
        "version": 1, "name": made.name, "classes": made.classes, "images": kind, "budget": made.budget._asdict(),
        "factor": getattr(made.images, "factor", 1),
    }  # fmt: skip
    state = {name: t.detach().cpu().contiguous() for name, t in made.state_dict().items() if _own(name)}
    with atomic_folder(folder) as part:
        facts["use"] = _write_use(made.use, part, state)
        save_file(state, part / "set.safetensors")
        (part / "set.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        _write_parquet(made, part / "images.parquet")
        picture(made, ACROSS).save(part / "picture.png")


def load_set(folder: Path | str) -> SyntheticSet:
    """The set in a folder.

    Raises:
        InputError: when it holds none, or a damaged one.
    """
    folder = Path(folder)
    try:
        facts = json.loads((folder / "set.json").read_text(encoding="utf-8"))
        state = load_file(folder / "set.safetensors")
        stored = {k.removeprefix("images."): v for k, v in state.items() if k.startswith("images.")}
        match facts["images"]:
            case "Shared":
                images: Plain | Shared = Shared(stored["base"], len(stored["patterns"]))
            case "Tiled":
                images = Tiled(stored["pixels"], facts["factor"])
            case _:
                images = Plain(stored["pixels"])
        raw, use = state.get("raw_rates"), _read_use(facts["use"], folder, state)
        made = SyntheticSet(
            images, state["stored_y"], facts["classes"], targets=state.get("targets"),
            rates=() if raw is None else [1.0] * len(raw), use=use, name=facts["name"],
        )  # fmt: skip
        made.load_state_dict({k: v for k, v in state.items() if _own(k) and not k.startswith("use!")}, strict=False)
        return made
    except FileNotFoundError as error:
        raise InputError("set", str(folder), f"holds no synthetic set: {Path(str(error.filename)).name} is not "
                         "there") from None  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError("set", str(folder), f"is damaged ({brief(error)}); write it again") from None


def picture(made: SyntheticSet, across: int = ACROSS) -> Any:
    """The decoded images as a PIL image: a row a class of ``across`` images at most, or a column, whichever is wider
    than high."""
    from PIL import Image

    shown = made.exported()
    x = (shown.images * 255).round().to(torch.uint8)
    rows = [x[(shown.labels == k).nonzero().squeeze(1)[:across]] for k in range(len(made.classes))]
    most, (c, height, width) = max(len(row) for row in rows), shown.shape
    turned = most < len(rows)
    down, wide = (most, len(rows)) if turned else (len(rows), most)
    sheet = torch.full((c, down * (height + 1) - 1, wide * (width + 1) - 1), 255, dtype=torch.uint8)
    for r, row in enumerate(rows):
        for k, image in enumerate(row):
            top, left = (k if turned else r) * (height + 1), (r if turned else k) * (width + 1)
            sheet[:, top : top + height, left : left + width] = image
    return Image.fromarray((sheet[0] if c != 3 else sheet.permute(1, 2, 0)).numpy())


def _own(name: str) -> bool:
    """Whether a tensor is the set's, not of a network that its use holds."""
    return not name.startswith("use.")


def _write_use(use: Use, part: Path, state: dict[str, Tensor]) -> dict[str, Any]:
    """A use is what its class is built from: numbers, tensors and classifiers, which it keeps under the same names."""
    kind = type(use).__name__
    if getattr(uses, kind, None) is not type(use):
        raise InputError("use", kind, "cannot be written to a folder; use the set from Python")
    facts: dict[str, Any] = {"kind": kind}
    for name in inspect.signature(type(use)).parameters:
        value = getattr(use, name)
        if isinstance(value, Tensor):
            state[f"use!{name}"] = value.detach().cpu().contiguous()
        elif isinstance(value, Classifier):
            save_classifier(value, part / f"use-{name}")
            facts[name] = {"networks": [f"use-{name}"], "single": True}
        elif isinstance(value, nn.ModuleList):
            names = [f"use-{name}-{k}" for k in range(len(value))]
            for where, net in zip(names, value, strict=True):
                save_classifier(net, part / where)  # type: ignore[arg-type]
            facts[name] = {"networks": names, "single": False}
        else:
            facts[name] = value
    return facts


def _read_use(facts: Mapping[str, Any], folder: Path, state: Mapping[str, Tensor]) -> Use:
    values: dict[str, Any] = {k.removeprefix("use!"): v for k, v in state.items() if k.startswith("use!")}
    for name, value in facts.items():
        if isinstance(value, dict):
            nets = [load_classifier(str(folder / where)) for where in value["networks"]]
            values[name] = nets[0] if value["single"] else nn.ModuleList(nets)
        elif name != "kind":
            values[name] = value
    return getattr(uses, facts["kind"])(**values)


def _write_parquet(made: SyntheticSet, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    shown = made.exported()
    x = (shown.images * 255).round().to(torch.uint8)
    coded = list[bytes]()
    for image in x:
        held = io.BytesIO()
        Image.fromarray((image[0] if len(image) != 3 else image.permute(1, 2, 0)).numpy()).save(held, "PNG")
        coded.append(held.getvalue())
    columns: dict[str, Any] = {
        "image": pa.array([{"bytes": b, "path": None} for b in coded]),
        "label": pa.array(shown.labels.tolist(), pa.int64()),
    }
    named = {"names": list(made.classes), "_type": "ClassLabel"}
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": named}
    if made.targets is not None:
        columns["target"] = pa.array(made.targets.detach().cpu().tolist(), pa.list_(pa.float32()))
        features["target"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"}
    known = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table(columns).replace_schema_metadata(known), path)
