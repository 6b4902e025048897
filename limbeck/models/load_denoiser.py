"""Diffusion and flow models from names, folders and pipelines of diffusers, and back to disk without pickle."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path as File
from typing import Any

from safetensors.torch import save_file
from torch import nn

from limbeck.core.checkpoint import atomic_folder
from limbeck.core.modules import unwrap
from limbeck.errors import InputError, brief, nearest
from limbeck.models.classifier import same_classes
from limbeck.models.denoiser import Denoiser
from limbeck.models.diffusers_net import DiffusersNet, is_pipeline, read_pipeline, unet, usage, write_pipeline
from limbeck.models.load import PICKLES, _tensors, seeded
from limbeck.models.path import EDM, VP, Discrete, Flow, Path, Trig
from limbeck.models.sampling import FewStep, Ode, Sampler
from limbeck.models.tiny_denoiser import Mlp, mlp

__all__ = ["DENOISERS", "is_fresh", "load_denoiser", "save_denoiser"]

DENOISERS = ("mlp-64x3", "mlp-256x3", "unet-32-64", "unet-32-64-64", "unet-flow-32-64")
FRESH = r"mlp-(?P<width>\d{1,5})(?:x(?P<depth>\d{1,2}))?|unet(?P<flow>-flow)?(?P<widths>(?:-\d{1,4})+)"
PATHS: dict[str, type[Path]] = {p.__name__: p for p in (Discrete, EDM, Flow, Trig, VP)}
SAMPLERS: dict[str, type] = {"FewStep": FewStep, "Ode": Ode}
CARD = """---
library_name: {library}
pipeline_tag: unconditional-image-generation
---

# A diffusion model

{text}

Samples have the shape {shape}, in [-1, 1]{labels}. It is sampled by `{sampler}`. In limbeck, sampling rule and all:

```python
from limbeck.models.load_denoiser import load_denoiser

model = load_denoiser(folder)
images = model.generate(model.noise(4){told})
```
"""


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


def save_denoiser(model: nn.Module, folder: File | str, *, card_text: str = "") -> None:
    """Write a model so that ``load_denoiser(folder)`` reads back the same, bit for bit, sampler and all.

    A network of diffusers is written as a pipeline that diffusers reads, with ``limbeck.json`` beside it; a perceptron
    as ``model.safetensors`` and ``limbeck.json``. The folder appears whole or not at all.

    Raises:
        InputError: when it is unknown how the network is made anew, or the folder cannot be written.
    """
    inner = unwrap(model)
    if not isinstance(inner, Denoiser):
        raise InputError("model", type(inner).__name__, "is no Denoiser; wrap the network in one")
    pipeline = isinstance(inner.net, DiffusersNet) and isinstance(inner.path, Discrete | Flow)
    facts = {
        "format": 1, "net": "diffusers" if pipeline else _net(inner), "shape": inner.shape, "classes": inner.classes,
        "prediction": inner.prediction, "data": inner.data,
        "path": {"name": type(inner.path).__name__, **asdict(inner.path)}, "sampler": _sampler_facts(inner.sampler),
    }  # fmt: skip
    with atomic_folder(File(folder)) as part:
        held = inner.sampler if isinstance(inner.sampler, nn.Module) else None
        if pipeline:
            write_pipeline(inner, part)
        else:
            state = {k: t.detach().cpu().clone().contiguous() for k, t in inner.net.state_dict().items()}
            save_file(state, part / "model.safetensors", metadata={"format": "pt"})
        if held is not None and (own := held.state_dict()):
            save_file({k: t.detach().cpu().clone().contiguous() for k, t in own.items()}, part / "sampler.safetensors")
        (part / "limbeck.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
        (part / "README.md").write_text(model_card(inner, card_text), encoding="utf-8")


def model_card(model: Denoiser, text: str) -> str:
    """What the folder's ``README.md`` says: how the model is sampled, here and in diffusers alone."""
    pipeline = isinstance(model.net, DiffusersNet) and isinstance(model.path, Discrete | Flow)
    said = CARD.format(
        library="diffusers" if pipeline else "limbeck", text=text, shape="x".join(map(str, model.shape)),
        sampler=model.sampler, told=", torch.arange(4)" if model.classes else "",
        labels=f", for {len(model.classes)} classes" if model.classes else "",
    )  # fmt: skip
    said = said.replace("from limbeck.models", "import torch\nfrom limbeck.models") if model.classes else said
    return said + (f"\nIn diffusers alone:\n\n{usage(model)}\n" if pipeline else "")


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
    if ":" not in reference and re.fullmatch(r"[\w-]+/[\w.-]+", reference):
        home = _hub(reference)
        return read_pipeline(home, _names(home, classes))
    return _made(reference, shape, classes, like)


def _names(folder: File, classes: int | Sequence[str] | None) -> Sequence[str] | None:
    """The data's classes, for a pipeline that does not name its own."""
    return None if classes is None else tuple(map(str, range(classes))) if isinstance(classes, int) else classes


def _hub(reference: str) -> File:
    from huggingface_hub import snapshot_download

    try:
        return File(snapshot_download(reference, allow_patterns=["*.json", "unet/*", "transformer/*", "*.safetensors"],
                                      ignore_patterns=[f"*{p}" for p in PICKLES]))  # fmt: skip
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


def _net(model: Denoiser) -> dict[str, Any]:
    """How the network is made anew."""
    net = model.net
    if isinstance(net, Mlp):
        return {"mlp": [net.enter.out_features, len(net.blocks)], "extras": net.extras}
    if model.reference and re.fullmatch(FRESH, model.reference) is None:
        return {"factory": model.reference}
    raise InputError(
        "model", type(net).__name__, "is made in a way that is not known; set model.reference to a factory"
    )


def _saved(folder: File) -> Denoiser:
    try:
        facts = json.loads((folder / "limbeck.json").read_text(encoding="utf-8"))
        made, shape, names = facts["net"], tuple(facts["shape"]), tuple(facts["classes"])
        path = _revived(PATHS, facts["path"])
        sampler = _revived(SAMPLERS, facts["sampler"])
        face: dict[str, Any] = {"path": path, "prediction": facts["prediction"], "data": facts["data"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError("model", str(folder), f"has a damaged limbeck.json ({brief(error)}); save it again") from None
    if made == "diffusers":
        read = read_pipeline(folder, names)
        model = Denoiser(read.net, shape=shape, classes=names, sampler=sampler, **face)
        return _with_state(model, folder)
    if "factory" in made:
        net = _called(made["factory"], shape, names).net
    else:
        net = Mlp(*made["mlp"], shape, len(names), made["extras"])
    model = Denoiser(net, shape=shape, classes=names, sampler=sampler, **face)
    model.reference = made.get("factory", "")
    _fill(net, folder / "model.safetensors")
    return _with_state(model, folder)


def _with_state(model: Denoiser, folder: File) -> Denoiser:
    where = folder / "sampler.safetensors"
    if isinstance(model.sampler, nn.Module) and where.is_file():
        _fill(model.sampler, where)
    return model


def _fill(module: nn.Module, where: File) -> None:
    try:
        module.load_state_dict(_tensors(where))
    except RuntimeError as error:
        raise InputError("weights", str(where), f"do not fit the model: {brief(error)}") from None


def _sampler_facts(sampler: Sampler) -> dict[str, Any]:
    """A sampler's class and what it was made with: those here by name, a method's own by where it is."""
    kind = type(sampler)
    given = inspect.signature(kind.__init__).parameters if isinstance(sampler, nn.Module) else {
        f.name: f for f in fields(kind) if f.init
    } if is_dataclass(kind) else {}  # fmt: skip
    missing = [name for name in given if name != "self" and not hasattr(sampler, name)]
    if missing or not given:
        fix = (
            f"cannot be written: it does not keep {missing[0]!r}" if missing else "cannot be written: it has no fields"
        )
        raise InputError("sampler", kind.__name__, f"{fix}; make it a dataclass, or keep what it was made with")
    name = kind.__name__ if SAMPLERS.get(kind.__name__) is kind else f"{kind.__module__}:{kind.__name__}"
    return {"name": name, **{name: getattr(sampler, name) for name in given if name != "self"}}


def _revived(known: Mapping[str, type], facts: Mapping[str, Any]) -> Any:
    """A value from its class's name and its fields; classes elsewhere in limbeck are named with their module."""
    name, given = facts["name"], {k: _tupled(v) for k, v in facts.items() if k != "name"}
    if name in known:
        return known[name](**given)
    home, colon, inner = name.partition(":")
    if not colon or home.split(".")[0] != "limbeck":
        raise ValueError(f"{name!r} is not known")
    cls = getattr(importlib.import_module(home), inner)
    if not isinstance(cls, type) or not (is_dataclass(cls) or issubclass(cls, nn.Module)):
        raise ValueError(f"{name!r} is no sampler")
    made = cls(**given)
    if not hasattr(made, "nfe"):
        raise ValueError(f"{name!r} is no sampler")
    return made


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def _check_classes(reference: str, own: Sequence[str], classes: int | Sequence[str]) -> None:
    count = classes if isinstance(classes, int) else len(classes)
    if len(own) != count:
        raise InputError("model", reference, f"is conditioned on {len(own)} classes; the data have {count}")
    if not isinstance(classes, int):
        same_classes(reference, own, classes)
