"""Diffusion and flow models from names, folders and pipelines of diffusers, without pickle."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path as File
from typing import Any

from torch import nn

from limbeck.errors import InputError, brief, nearest
from limbeck.models.autoencoder import Autoencoder, read_autoencoder
from limbeck.models.classifier import same_classes
from limbeck.models.denoiser import Denoiser
from limbeck.models.diffusers_net import DiffusersNet, unet
from limbeck.models.diffusers_read import PLACES, is_pipeline, read_json, read_network, read_pipeline
from limbeck.models.load import PICKLES, _tensors, seeded
from limbeck.models.path import Flow, Path
from limbeck.models.tiny_denoiser import mlp
from limbeck.models.written import FRESH, Parts, elsewhere, net_of, sampler_of, value_of

__all__ = ["DENOISERS", "autoencoder_of", "is_fresh", "load_denoiser"]

HUB = r"[\w-]+/[\w.-]+"
DENOISERS = ("mlp-64x3", "mlp-256x3", "unet-32-64", "unet-32-64-64", "unet-flow-32-64")


def is_fresh(reference: str) -> bool:
    """Whether a reference names a network with new weights: by a name, or by a factory."""
    return re.fullmatch(FRESH, reference) is not None or (
        ":" in reference and not File(reference).expanduser().exists()
    )


def load_denoiser(
    reference: str, *, shape: Sequence[int] | None = None, classes: int | Sequence[str] | None = None, seed: int = 0,
    like: Denoiser | None = None,
) -> Denoiser:  # fmt: skip
    """The diffusion or flow model that a reference names.

    Args:
        reference: one of

            - ``mlp-64x3`` (width, depth; a flow), ``unet-32-64`` (a width a resolution; on the cosine schedule,
              predicting v) and ``unet-flow-32-64``: fresh weights, on the path of ``like`` where it is given;
            - a folder written by :func:`save_denoiser`;
            - a folder of diffusers with a ``UNet2DModel`` or ``DiTTransformer2DModel`` and its scheduler, or
              ``owner/name`` on the Hugging Face Hub; safetensors only, no code from there is run;
            - ``package.module:factory``: a function that returns a :class:`Denoiser`; it is given those of ``shape``
              and ``classes`` (their names) that it takes by name.
        shape: (C, H, W) of the data; a model of another one is refused.
        classes: of the data. A model with other names, or another number of them, is refused; one without is not.
        seed: of fresh weights. The global random state is left as it was.
        like: whose path, prediction and schedule a fresh network gets.

    Raises:
        InputError: in one line that names the reference and what to do.
    """
    with seeded(seed):
        model = _resolve(reference, shape, classes, like)
    if shape is not None and tuple(shape) != tuple(model.shape):
        said = "x".join(map(str, model.shape))
        fix = f"makes samples of {said}; the data's are {'x'.join(map(str, shape))}: resize the data, or take another"
        raise InputError("model", reference, fix)
    if classes is not None and model.classes:
        _check_classes(reference, model.classes, classes)
    return model


def autoencoder_of(reference: str) -> Autoencoder | None:
    """The autoencoder beside a model, whose samples are latents then; ``None`` where they are the data itself.

    Raises:
        InputError: for one that cannot be read.
    """
    folder = File(reference).expanduser()
    if not folder.exists() and re.fullmatch(HUB, reference):
        folder = _hub(reference)
    return read_autoencoder(folder)


def _resolve(
    reference: str, shape: Sequence[int] | None, classes: int | Sequence[str] | None, like: Denoiser | None
) -> Denoiser:
    folder = File(reference).expanduser()
    if (folder / "limbeck.json").is_file():
        return _saved(folder)
    if folder.is_dir():
        if not is_pipeline(folder):
            pickled = [f.name for f in sorted(folder.iterdir()) if f.suffix in PICKLES]
            if pickled:
                _tensors(folder / pickled[0])
            raise InputError("model", reference, "is a folder without limbeck.json, model_index.json or a network")
        return read_pipeline(folder, _names(folder, classes))
    if folder.suffix in PICKLES:
        _tensors(folder)
    if folder.suffix == ".safetensors":
        raise InputError("model", reference, "is weights alone; name the folder of the pipeline they belong to")
    if re.fullmatch(HUB, reference):
        home = _hub(reference)
        return read_pipeline(home, _names(home, classes))
    return _made(reference, shape, classes, like)


def _names(folder: File, classes: int | Sequence[str] | None) -> Sequence[str] | None:
    """The data's classes, for a pipeline that does not name its own."""
    return None if classes is None else tuple(map(str, range(classes))) if isinstance(classes, int) else classes


def _hub(reference: str) -> File:
    from huggingface_hub import snapshot_download

    try:
        wanted = ["*.json", "unet/*", "transformer/*", "vae/*", "*.safetensors"]
        return File(snapshot_download(reference, allow_patterns=wanted, ignore_patterns=[f"*{p}" for p in PICKLES]))
    except Exception as error:  # the network, the Hub, a name: each with exceptions of its own
        raise InputError("model", reference, f"cannot be had from the Hub: {brief(error)}") from None


def _made(
    reference: str, shape: Sequence[int] | None, classes: int | Sequence[str] | None, like: Denoiser | None
) -> Denoiser:
    if shape is None or classes is None:
        raise InputError("model", reference, "is made for some data; give shape and classes")
    if ":" in reference:
        return _called(reference, shape, classes)
    found = re.fullmatch(FRESH, reference)
    if found is None:
        raise InputError("model", reference, "names no model" + nearest(reference, DENOISERS))
    path: Path | None = like.path if like is not None else None
    prediction = like.prediction if like is not None else None
    if found["widths"] is None:
        made = mlp(
            int(found["width"]), int(found["depth"] or 3), shape=shape, classes=classes, path=path,
            prediction=prediction or "velocity",
        )  # fmt: skip
    else:
        betas = like.net.betas if like is not None and isinstance(like.net, DiffusersNet) else None
        path = path or (Flow() if found["flow"] else None)
        made = unet(
            [int(w) for w in found["widths"][1:].split("-")], shape=shape, classes=classes, path=path,
            prediction=prediction, betas=betas,
        )  # fmt: skip
    if like is not None:
        made.data, made.sampler = like.data, copy.deepcopy(like.sampler)
    made.reference = reference
    return made


def _called(reference: str, shape: Sequence[int], classes: int | Sequence[str]) -> Denoiser:
    home, _, name = reference.partition(":")
    if (here := str(File.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(home), name)
        taken = inspect.signature(factory).parameters
        given = {"shape": tuple(shape), "classes": classes}
        model = factory(**{k: v for k, v in given.items() if k in taken})
    except Exception as error:  # whatever foreign code raises is the user's answer
        raise InputError("model", reference, f"could not be made: {type(error).__name__}: {brief(error)}") from error
    if not isinstance(model, Denoiser):
        raise InputError("model", reference, f"returned a {type(model).__name__}, which is no Denoiser")
    model.reference = reference
    return model


def _saved(folder: File) -> Denoiser:
    """What ``save_denoiser`` wrote, the models inside it first."""
    parts: Parts = {}
    try:
        facts = json.loads((folder / "limbeck.json").read_text(encoding="utf-8"))
        made, names = facts["net"], tuple(facts["classes"])
        for name in facts.get("parts", ()):
            if not re.fullmatch(r"[\w-]+", name):
                raise ValueError(f"{name!r} is no part's name")
            parts[name] = _saved(folder / name)
        face: dict[str, Any] = {
            "shape": tuple(facts["shape"]), "classes": names, "path": value_of(facts["path"], parts),
            "prediction": facts["prediction"], "data": facts["data"],
        }  # fmt: skip
        sampler = sampler_of(facts["sampler"], parts)
        net = _net(folder, made, parts, face)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("model", str(folder), f"has a damaged limbeck.json ({brief(error)}); save it again") from None
    model = Denoiser(net, sampler=sampler, **face)
    model.reference = made["factory"] if isinstance(made, dict) and "factory" in made else ""
    if not isinstance(net, DiffusersNet):
        _fill(net, folder / "model.safetensors")
    if isinstance(sampler, nn.Module):
        _fill(sampler, folder / "sampler.safetensors")
    return model


def _net(folder: File, made: Any, parts: Parts, face: dict[str, Any]) -> nn.Module:
    if made == "diffusers":
        return read_pipeline(folder, face["classes"]).net
    if "network" in made:
        home = next((folder / p for p in PLACES if (folder / p).is_dir()), folder / PLACES[0])
        network = read_network(home, read_json(home / "config.json"))
        return DiffusersNet(network, face["path"], steps=made["network"], classes=len(face["classes"]))
    if "factory" in made:
        return _called(made["factory"], face["shape"], face["classes"]).net
    return net_of(made, parts, face)


def _fill(module: nn.Module, where: File) -> None:
    """Its weights from a file, but for those that came with a part."""
    inside = elsewhere(module)
    wanted = [key for key in module.state_dict() if not key.startswith(inside)]
    if not wanted:
        return
    try:
        found = module.load_state_dict(_tensors(where), strict=False)
    except RuntimeError as error:
        raise InputError("weights", str(where), f"do not fit the model: {brief(error)}") from None
    missing = [key for key in found.missing_keys if key in wanted]
    if missing or found.unexpected_keys:
        raise InputError("weights", str(where), f"do not fit the model: {(missing + found.unexpected_keys)[0]}")


def _check_classes(reference: str, own: Sequence[str], classes: int | Sequence[str]) -> None:
    count = classes if isinstance(classes, int) else len(classes)
    if len(own) != count:
        raise InputError("model", reference, f"is conditioned on {len(own)} classes; the data have {count}")
    if not isinstance(classes, int):
        same_classes(reference, own, classes)
