"""What ``limbeck.json`` says of a diffusion model: values by class and fields, networks by how they are made anew.

A network or a sampler may hold whole models: experts, a model that is read on another path, a teacher that helps. Each
is a *part*: it is written in a folder of its own below the model's, as any model is, and named here by that folder.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.models.conversion import Converted, home
from limbeck.models.denoiser import Denoiser
from limbeck.models.diffusers_net import DiffusersNet
from limbeck.models.diffusers_write import has_scheduler
from limbeck.models.equilibrium import Equilibrium
from limbeck.models.output_adapter import OutputAdapters
from limbeck.models.path import EDM, VP, Discrete, Flow, Trig
from limbeck.models.routed import ByLabel, ByTime, Routed
from limbeck.models.sampling import FewStep, Ode
from limbeck.models.tiny_denoiser import Mlp

__all__ = ["FRESH", "Parts", "elsewhere", "facts_of", "net_facts", "net_of", "sampler_of", "value_of"]

FRESH = r"mlp-(?P<width>\d{1,5})(?:x(?P<depth>\d{1,2}))?|unet(?P<flow>-flow)?(?P<widths>(?:-\d{1,4})+)"
KNOWN: dict[str, type] = {c.__name__: c for c in (Discrete, EDM, Flow, Trig, VP, FewStep, Ode)}
HOMES = ("limbeck.models.", "limbeck.methods.diffusion.")  # of other classes, which are named with their module
INSIDE = {ByLabel: "nets.", ByTime: "nets.", Converted: "model.", OutputAdapters: "net."}  # weights that are a part's

Parts = dict[str, Denoiser]
"""Models in folders of their own, by the folder's name."""


def facts_of(value: Any, parts: Parts, field: str = "") -> Any:
    """A number, a word, a path, a sampler, a model, or a sequence of them, as JSON.

    Args:
        parts: filled with the models that are met.
        field: what the value is called; a part's folder is named for it.

    Raises:
        InputError: for what does not keep what it was made with, and for functions and the like.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [facts_of(v, parts, field) for v in value]
    if isinstance(value, Denoiser):
        return {"part": part_of(value, parts, field)}
    kind = type(value)
    given = inspect.signature(kind.__init__).parameters if isinstance(value, nn.Module) else {
        f.name: f for f in fields(kind) if f.init
    } if is_dataclass(kind) else {}  # fmt: skip
    given = [name for name in given if name != "self"]
    missing = [name for name in given if not hasattr(value, name)]
    name = kind.__name__ if KNOWN.get(kind.__name__) is kind else f"{kind.__module__}:{kind.__name__}"
    if missing or (not given and name not in KNOWN) or not (name in KNOWN or name.startswith(HOMES)):
        why = f"it does not keep {missing[0]!r}" if missing else "it has no fields" if not given else "it is your own"
        raise InputError(
            field or "value", kind.__name__, f"cannot be written: {why}; keep the model in Python, or give the default"
        )
    return {"name": name, **{key: facts_of(getattr(value, key), parts, key) for key in given}}


def part_of(model: Denoiser, parts: Parts, name: str) -> str:
    """The folder of a part; one model has one folder, however often it is met."""
    for known, held in parts.items():
        if held is model:
            return known
    while name in parts:
        name += "-other"
    parts[name] = model
    return name


def value_of(facts: Any, parts: Parts) -> Any:
    """The reverse of :func:`facts_of`; lists become tuples.

    Raises:
        ValueError: for a class that is none of this library's models, paths and samplers.
        KeyError: for a part that is not there.
    """
    if isinstance(facts, list):
        return tuple(value_of(v, parts) for v in facts)
    if not isinstance(facts, Mapping):
        return facts
    if "part" in facts:
        return parts[facts["part"]]
    name = facts["name"]
    cls = KNOWN.get(name) or _found(name)
    return cls(**{k: value_of(v, parts) for k, v in facts.items() if k != "name"})


def _found(name: str) -> type:
    if not name.startswith(HOMES) or ":" not in name:
        raise ValueError(f"{name!r} is not known")
    where, _, inner = name.partition(":")
    cls = getattr(importlib.import_module(where), inner)
    if not isinstance(cls, type) or not (is_dataclass(cls) or issubclass(cls, nn.Module)):
        raise ValueError(f"{name!r} is no value")
    return cls


def sampler_of(facts: Any, parts: Parts) -> Any:
    """A value that is a sampler."""
    made = value_of(facts, parts)
    if not hasattr(made, "nfe") or isinstance(made, Denoiser):
        raise ValueError("it has no sampler")
    return made


def net_facts(model: Denoiser, parts: Parts) -> Any:
    """How a model's network is made anew; ``parts`` is filled with the models inside it.

    Raises:
        InputError: when that is unknown.
    """
    net = model.net
    match net:
        case DiffusersNet():
            return "diffusers" if has_scheduler(model) else {"network": net.steps}
        case Mlp():
            return {"mlp": [net.enter.out_features, len(net.blocks)], "extras": net.extras}
        case Equilibrium():
            return {"equilibrium": net.sizes}
        case Converted():
            return {"converted": part_of(home(model), parts, "model"), "prediction": net.prediction}
        case OutputAdapters():
            base = _with_net(model, net.net, Ode())
            return {"adapters": net.blocks, "hidden": net.hidden, "of": part_of(base, parts, "base")}
        case Routed():
            experts = [
                part_of(_with_net(model, n, model.sampler), parts, f"expert-{k}") for k, n in enumerate(net.nets, 1)
            ]
            by = {"by_label": net.owners[:-1].tolist()} if isinstance(net, ByLabel) else {"by_time": net.ends.tolist()}
            return {**by, "experts": experts}
    if model.reference and re.fullmatch(FRESH, model.reference) is None:
        return {"factory": model.reference}
    raise InputError(
        "model", type(net).__name__, "is made in a way that is not known; set model.reference to a factory"
    )


def _with_net(model: Denoiser, net: nn.Module, sampler: Any) -> Denoiser:
    """A network in the model's place."""
    made = Denoiser(net, shape=model.shape, path=model.path, prediction=model.prediction, classes=model.classes,
                    data=model.data, sampler=sampler)  # fmt: skip
    made.reference = model.reference
    return made


def net_of(made: Mapping[str, Any], parts: Parts, face: Mapping[str, Any]) -> nn.Module:
    """The reverse of :func:`net_facts`, but for networks of diffusers and factories; weights outside of parts are new.

    Args:
        face: the model's ``shape``, ``classes``, ``path`` and the like.

    Raises:
        KeyError, ValueError, TypeError: for facts that are damaged.
    """
    if "mlp" in made:
        return Mlp(*made["mlp"], face["shape"], len(face["classes"]), made["extras"])
    if "equilibrium" in made:
        return Equilibrium(face["shape"], **made["equilibrium"], classes=len(face["classes"]))
    if "converted" in made:
        return Converted(parts[made["converted"]], face["path"], made["prediction"])
    if "adapters" in made:
        return OutputAdapters(parts[made["of"]], made["hidden"], made["adapters"])
    nets = [parts[name].net for name in made["experts"]]
    return ByLabel(nets, torch.tensor(made["by_label"])) if "by_label" in made else ByTime(nets, made["by_time"])


def elsewhere(holder: nn.Module) -> tuple[str, ...]:
    """How the names of those tensors of a network's or a sampler's state begin that are in the folders of parts."""
    within = (
        f"{name}." for name, m in holder.named_modules(remove_duplicate=False) if name and isinstance(m, Denoiser)
    )
    inside = INSIDE.get(type(holder))
    return (*within, *((inside,) if inside else ()))
