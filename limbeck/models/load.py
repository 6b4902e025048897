"""Models by reference: a small network's name, a folder, the Hugging Face Hub, a function of the user's."""

from __future__ import annotations

import inspect
import json
import re
import sys
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limbeck.core.checkpoint import atomic_folder
from limbeck.core.modules import unwrap
from limbeck.errors import InputError, brief, nearest
from limbeck.models.classifier import Classifier, counted, same_classes
from limbeck.models.resnet import resnet
from limbeck.models.tiny import cnn, convnet, mixer, mlp, vit

__all__ = ["NAMES", "PICKLES", "load_classifier", "save_classifier", "seeded"]

Shape = Sequence[int]
Classes = int | Sequence[str]
_FIXED: dict[str, Callable[..., Classifier]] = {
    "mixer-tiny": partial(mixer, 64, 4),
    "vit-small": partial(vit, 128, 6),
    "vit-tiny": partial(vit, 64, 4),
}
NAMES = (*_FIXED, "mlp-16", "mlp-64x2", "mlp-256x2", "cnn-8-16", "cnn-8-16-32", "cnn-32-64-128",
         "convnet-32x2", "convnet-128x3", "resnet8", "resnet14", "resnet20", "resnet32", "resnet44",
         "resnet56")  # fmt: skip
PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}
CARD = """---
library_name: limbeck
pipeline_tag: image-classification
---

# An image classifier

{text}

Read it with `limbeck.models.load.load_classifier(folder)`: images of shape {shape} in [0, 1] to {count} logits.
"""


def load_classifier(
    reference: str, *, shape: Shape | None = None, classes: Classes | None = None, seed: int = 0
) -> Classifier:
    """The classifier that a reference names.

    Args:
        reference: one of

            - ``mlp-64x2`` (width, depth), ``cnn-8-16-32`` (a width a stage), ``convnet-32x2``, ``vit-tiny``,
              ``resnet20``: fresh weights;
            - ``resnet20@weights.safetensors``: such a network with weights of its own;
            - a folder written by :func:`save_classifier`;
            - a transformers image classifier: a folder (fresh weights when it holds a ``config.json`` alone) or
              ``owner/name`` on the Hugging Face Hub; safetensors only, no code from there is run;
            - ``package.module:factory``: a function that returns a network; it is given those of ``shape``, ``classes``
              and ``num_classes`` (both the number K) that it takes by name.
        shape: (C, H, W) of the data's images.
        classes: the data's number of classes, or their names; a model with other names or another order is refused.
        seed: of fresh weights, which depend on nothing else. The global random state is left as it was.

    Raises:
        InputError: in one line that names the reference and what to do.
    """
    with seeded(seed):
        model = _resolve(reference, shape, classes)
    if classes is not None and not isinstance(classes, int):
        same_classes(reference, model.classes, classes)
    return model


def save_classifier(model: nn.Module, folder: Path | str, *, reference: str | None = None, card_text: str = "") -> None:
    """Write a classifier so that ``load_classifier(folder)`` reads back the same, bit for bit.

    The folder appears whole or not at all: ``model.safetensors``, ``limbeck.json`` and ``README.md``, and for a
    transformers network what ``save_pretrained`` writes.

    Args:
        model: a :class:`Classifier`, wrapped or not.
        folder: replaced when it exists.
        reference: how the network is made anew, when ``model.reference`` does not say: a name or a factory.
        card_text: Markdown for the model card.

    Raises:
        InputError: when there is no reference, or the folder cannot be written.
    """
    inner = unwrap(model)
    if not isinstance(inner, Classifier):
        raise InputError("model", type(inner).__name__, "is no Classifier; wrap the network in one")
    made = "transformers" if _is_transformers(inner.net) else (reference or inner.reference).partition("@")[0]
    if not made:
        raise InputError(
            "reference", "", "is needed to make this network anew; pass its name or 'package.module:factory'"
        )
    facts = {
        "format": 1,
        "reference": made,
        "shape": inner.shape,
        "classes": inner.classes,
        "mean": inner.mean.flatten().tolist(),
        "std": inner.std.flatten().tolist(),
        "head": inner.head,
        "stages": inner.stages,
    }
    card = CARD.format(text=card_text, shape="x".join(map(str, inner.shape)), count=inner.num_classes)
    with atomic_folder(Path(folder)) as part:
        if made == "transformers":
            inner.net.save_pretrained(part)  # type: ignore[operator]
            _write_processor(inner, part)
        else:
            # Clones, because tied tensors share memory, which the format refuses.
            state = {key: t.detach().cpu().clone().contiguous() for key, t in inner.state_dict().items()}
            save_file(state, part / "model.safetensors", metadata={"format": "pt"})
        (part / "limbeck.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        (part / "README.md").write_text(card, encoding="utf-8")


@contextmanager
def seeded(seed: int) -> Generator[None, None, None]:
    """A block in which random numbers begin at a seed; afterwards the generators are where they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def _resolve(reference: str, shape: Shape | None, classes: Classes | None) -> Classifier:
    folder = Path(reference).expanduser()
    if (folder / "limbeck.json").is_file():
        return _saved(folder, shape)
    if folder.is_dir():
        return _transformers(reference, shape, classes)
    name, at, weights = reference.partition("@")
    if at:
        model = _made(name, shape, classes)
        _fill(model, _tensors(Path(weights).expanduser()), weights)
        return model
    if folder.suffix in PICKLES:
        _tensors(folder)
    if folder.suffix == ".safetensors":
        raise InputError("model", reference, f"is weights alone; name the network too: 'resnet20@{reference}'")
    if ":" not in reference and re.fullmatch(r"[\w-]+/[\w.-]+", reference):
        return _transformers(reference, shape, classes)
    return _made(reference, shape, classes)


def _made(reference: str, shape: Shape | None, classes: Classes | None) -> Classifier:
    """A fresh network by name or factory."""
    if shape is None or classes is None:
        raise InputError("model", reference, "is made for some data; give shape and classes")
    if ":" in reference:
        model = _call(reference, shape, classes)
    elif reference in _FIXED:
        model = _FIXED[reference](shape=shape, classes=classes)
    elif found := re.fullmatch(r"mlp-(\d{1,5})(?:x(\d{1,2}))?", reference):
        model = mlp(*[int(found[1])] * int(found[2] or 1), shape=shape, classes=classes)
    elif found := re.fullmatch(r"convnet-(\d{1,4})x(\d{1,2})", reference):
        model = convnet(int(found[1]), int(found[2]), shape=shape, classes=classes)
    elif found := re.fullmatch(r"cnn((?:-\d{1,4})+)", reference):
        model = cnn(*map(int, found[1][1:].split("-")), shape=shape, classes=classes)
    elif found := re.fullmatch(r"resnet(\d{1,4})", reference):
        model = resnet(int(found[1]), shape=shape, classes=classes)
    else:
        raise InputError("model", reference, "names no model" + nearest(reference, NAMES))
    model.reference = reference
    return model


def _call(reference: str, shape: Shape, classes: Classes) -> Classifier:
    home, _, name = reference.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        factory = getattr(import_module(home), name)
        taken = inspect.signature(factory).parameters
        count = classes if isinstance(classes, int) else len(classes)
        given = {"shape": tuple(shape), "classes": count, "num_classes": count}
        open_ended = any(p.kind is p.VAR_KEYWORD for p in taken.values())
        net = factory(**{k: v for k, v in given.items() if k in taken or (open_ended and k == "num_classes")})
    except Exception as error:  # whatever foreign code raises is the user's answer
        raise InputError("model", reference, f"could not be made: {type(error).__name__}: {brief(error)}") from error
    if not isinstance(net, nn.Module):
        raise InputError("model", reference, f"returned a {type(net).__name__}, which is no torch.nn.Module")
    return net if isinstance(net, Classifier) else Classifier(net, shape=shape, classes=classes)


def _saved(folder: Path, shape: Shape | None) -> Classifier:
    try:
        facts = json.loads((folder / "limbeck.json").read_text(encoding="utf-8"))
        made, own, names = facts["reference"], facts["shape"], facts["classes"]
        face = {key: facts[key] for key in ("mean", "std", "head", "stages")}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("model", str(folder), f"has a damaged limbeck.json ({brief(error)}); save it again") from None
    if shape is not None and tuple(shape) != tuple(own):
        said = "x".join(map(str, own))
        raise InputError(
            "model", str(folder), f"reads images of {said}, not of {'x'.join(map(str, shape))}; resize the data"
        )
    if made == "transformers":
        return Classifier(_pretrained(str(folder)), shape=own, classes=names, **face)
    model = Classifier(_made(made, own, names).net, shape=own, classes=names, **face)
    model.reference = made
    _fill(model, _tensors(folder / "model.safetensors"), str(folder / "model.safetensors"))
    return model


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        fix = "may be a pickle, which can run code when it is read; convert it with safetensors.torch.save_file"
        raise InputError("weights", str(path), fix)
    if not path.is_file():
        raise InputError("weights", str(path), "does not exist")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError("weights", str(path), f"is damaged: {brief(error)}") from None


def _fill(model: Classifier, state: Mapping[str, Tensor], where: str) -> None:
    """Load weights strictly; they are the classifier's own, or those of the network inside it."""
    target = model if "mean" in state else model.net
    wanted = target.state_dict()
    # Files from before batch norm counted its batches lack that number, which inference never reads.
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in wanted]
    if missing or unexpected:
        kind, key = ("lacks", missing[0]) if missing else ("has the unknown tensor", unexpected[0])
        more = f" (and {len(missing) + len(unexpected) - 1} more)" if len(missing) + len(unexpected) > 1 else ""
        raise InputError("weights", where, f"{kind} {key!r}{more}; name the network it was made with")
    for key, tensor in state.items():
        if tensor.shape != wanted[key].shape:
            fix = f"holds {key!r} of shape {list(tensor.shape)}; this network has {list(wanted[key].shape)}"
            raise InputError("weights", where, fix)
    target.load_state_dict({**wanted, **state})


def _is_transformers(net: nn.Module) -> bool:
    return hasattr(net, "save_pretrained") and hasattr(net, "config")


def _transformers(reference: str, shape: Shape | None, classes: Classes | None) -> Classifier:
    folder = Path(reference).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError("model", reference, "is a folder without limbeck.json or config.json; it holds no model")
    if shape is None:
        raise InputError("model", reference, "is used on some data; give their shape")
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        if pickles := [f.name for f in folder.iterdir() if f.suffix in PICKLES]:
            _tensors(folder / pickles[0])
        return Classifier(_from_config(folder, shape, classes), shape=shape, classes=_given(reference, classes))
    net: Any = _pretrained(reference)
    own = [str(net.config.id2label[k]) for k in range(net.config.num_labels)]
    count = len(own) if classes is None else classes if isinstance(classes, int) else len(classes)
    if count != len(own):
        raise InputError("model", reference, f"tells {len(own)} classes apart; the data have {count}")
    names = classes if classes is not None and not isinstance(classes, int) and counted(own) else own
    mean, std = _normalisation(reference)
    return Classifier(net, shape=shape, classes=names, mean=mean, std=std)


def _given(reference: str, classes: Classes | None) -> Classes:
    if classes is None:
        raise InputError("model", reference, "is made for some data; give their classes")
    return classes


def _from_config(folder: Path, shape: Shape, classes: Classes | None) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageClassification

    names = _given(str(folder), classes)
    names = [str(k) for k in range(names)] if isinstance(names, int) else list(names)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        config.id2label, config.label2id = dict(enumerate(names)), {name: k for k, name in enumerate(names)}
        return AutoModelForImageClassification.from_config(config, trust_remote_code=False).float()
    except Exception as error:  # transformers raises many kinds for a config it cannot use
        raise InputError("model", str(folder), f"is no image classifier: {brief(error)}") from None


def _pretrained(reference: str) -> nn.Module:
    from transformers import AutoModelForImageClassification

    try:
        net, report = AutoModelForImageClassification.from_pretrained(
            reference, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # the network, the Hub, a config, a file: each with exceptions of its own
        raise InputError(
            "model", reference, f"cannot be had as a transformers image classifier: {brief(error)}"
        ) from None
    for kind in ("missing_keys", "mismatched_keys"):
        if report[kind]:
            key = sorted(map(str, report[kind]))[0]
            raise InputError("model", reference, f"has no weights for {key!r}: it is not a finished image classifier")
    return net


def _normalisation(reference: str) -> tuple[list[float] | None, list[float] | None]:
    """What its image processor states; its pixels are scaled to [0, 1] before, as ours are."""
    from transformers import ImageProcessingMixin

    try:
        stated, _ = ImageProcessingMixin.get_image_processor_dict(reference)
    except OSError:
        warnings.warn(f"{reference}: has no preprocessor_config.json; its input is not normalised", stacklevel=2)
        return None, None
    return (stated.get("image_mean"), stated.get("image_std")) if stated.get("do_normalize", True) else (None, None)


def _write_processor(model: Classifier, folder: Path) -> None:
    from transformers import ViTImageProcessor

    _, height, width = model.shape
    mean, std = model.mean.flatten().tolist(), model.std.flatten().tolist()
    ViTImageProcessor(size={"height": height, "width": width}, image_mean=mean, image_std=std).save_pretrained(folder)
