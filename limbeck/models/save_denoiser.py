"""Diffusion and flow models to disk: weights as safetensors, everything else as JSON, and a card that says how to use
them."""

from __future__ import annotations

import json
from pathlib import Path as File

from safetensors.torch import save_file
from torch import nn

from limbeck.core.checkpoint import atomic_folder
from limbeck.core.modules import unwrap
from limbeck.errors import InputError
from limbeck.models.autoencoder import Autoencoder
from limbeck.models.conversion import Converted
from limbeck.models.denoiser import Denoiser
from limbeck.models.diffusers_net import DiffusersNet
from limbeck.models.diffusers_write import has_scheduler, usage, write_network, write_pipeline
from limbeck.models.output_adapter import OutputAdapters
from limbeck.models.routed import ByLabel, ByTime
from limbeck.models.sampling import FewStep
from limbeck.models.written import Parts, elsewhere, facts_of, net_facts

__all__ = ["model_card", "save_denoiser"]

DECODED = """
images = read_autoencoder(folder).decode(latents)"""
CARD = """---
library_name: {library}
pipeline_tag: unconditional-image-generation
---

# A diffusion model

{text}

Samples have the shape {shape}{labels}, {units}. It is sampled by `{sampler}`.
{inside}
In limbeck, sampling rule and all:

```python
{imports}from limbeck.models.load_denoiser import load_denoiser

model = load_denoiser(folder)
{images} = model.generate(model.noise(4){told}){decoded}
```
"""


def save_denoiser(
    model: nn.Module, folder: File | str, *, card_text: str = "", autoencoder: Autoencoder | None = None
) -> None:
    """Write a model so that ``load_denoiser(folder)`` reads back the same, bit for bit, sampler and all.

    A network of diffusers is written as a pipeline that diffusers reads, with ``limbeck.json`` beside it; another one
    as ``model.safetensors`` and ``limbeck.json``. Models inside the network or the sampler (experts, a teacher that
    helps) have folders of their own in it, written in the same way; so has the autoencoder of a model whose samples are
    latents. The folder appears whole or not at all.

    Raises:
        InputError: when it is unknown how the network or the sampler is made anew, or the folder cannot be written.
    """
    inner = unwrap(model)
    if not isinstance(inner, Denoiser):
        raise InputError("model", type(inner).__name__, "is no Denoiser; wrap the network in one")
    _facts(inner, {})
    with atomic_folder(File(folder)) as part:
        _write(inner, part, card_text, autoencoder)


def _facts(model: Denoiser, parts: Parts) -> dict[str, object]:
    found = {
        "format": 1, "net": net_facts(model, parts), "shape": model.shape, "classes": model.classes,
        "prediction": model.prediction, "data": model.data, "path": facts_of(model.path, parts, "path"),
        "sampler": facts_of(model.sampler, parts, "sampler"),
    }  # fmt: skip
    return {**found, "parts": list(parts)} if parts else found


def _write(model: Denoiser, folder: File, text: str, autoencoder: Autoencoder | None = None) -> None:
    parts: Parts = {}
    facts = _facts(model, parts)
    if isinstance(model.net, DiffusersNet) and has_scheduler(model):
        write_pipeline(model, folder, autoencoder)
    elif isinstance(model.net, DiffusersNet):
        write_network(model, folder)
    else:
        _tensors(model.net, folder / "model.safetensors")
    if isinstance(model.sampler, nn.Module):
        _tensors(model.sampler, folder / "sampler.safetensors")
    if autoencoder is not None:
        autoencoder.save(folder)
    for name, part in parts.items():
        (folder / name).mkdir()
        _write(part, folder / name, "Part of the model in the folder above, which says what it is for.")
    (folder / "limbeck.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(model, text, autoencoder), encoding="utf-8")


def _tensors(holder: nn.Module, where: File) -> None:
    """What a network or a sampler learnt itself, if anything: a part's weights are in the part's folder."""
    inside = elsewhere(holder)
    own = {
        key: t.detach().cpu().clone().contiguous()
        for key, t in holder.state_dict().items()
        if not key.startswith(inside)
    }
    if own:
        save_file(own, where, metadata={"format": "pt"})


def model_card(model: Denoiser, text: str, autoencoder: Autoencoder | None = None) -> str:
    """What the folder's ``README.md`` says: what is in it, and how it is sampled, here and in diffusers alone."""
    parts: Parts = {}
    _facts(model, parts)
    pipeline, sampler = isinstance(model.net, DiffusersNet) and has_scheduler(model), model.sampler
    how = f"{type(sampler).__name__}, {sampler.nfe} calls" if isinstance(sampler, nn.Module) else str(sampler)
    latent = autoencoder is not None
    imports = ("import torch\n" if model.classes else "") + (
        "from limbeck.models.autoencoder import read_autoencoder\n" if latent else ""
    )
    said = CARD.format(
        library="diffusers" if pipeline else "limbeck", text=text, shape="x".join(map(str, model.shape)),
        sampler=how, inside=_inside(model, parts), told=", torch.arange(4)" if model.classes else "",
        labels=f", for {len(model.classes)} classes" if model.classes else "", imports=imports,
        units="latents of the autoencoder in `vae`" if latent else "in [-1, 1]",
        images="latents" if latent else "images", decoded=DECODED if latent else "",
    )  # fmt: skip
    return said + (f"\nIn diffusers alone:\n\n{usage(model, autoencoder)}\n" if pipeline else "")


def _inside(model: Denoiser, parts: Parts) -> str:
    """What the folders in the folder are, and what plain diffusers can do with them."""
    net, said = model.net, list[str]()
    plain = any(isinstance(part.net, DiffusersNet) and has_scheduler(part) for part in parts.values())
    if isinstance(net, ByLabel):
        said.append("One expert makes a sample, by its label:\n")
        for k, name in enumerate(list(parts)[: len(net.nets)], 1):
            own = [c for c, owner in zip(model.classes, net.owners.tolist(), strict=False) if owner == k - 1]
            said.append(f"- `{name}`: {', '.join(own)}")
        if plain:
            said.append("\nEach is a pipeline of diffusers, for its own classes; diffusers cannot choose between them.")
    elif isinstance(net, ByTime):
        ends = [1.0, *net.ends.tolist(), 0.0]
        said.append("Experts take turns on the way from noise; diffusers has no pipeline that changes its network:\n")
        said += [f"- `{name}`: from {a:g} to {b:g}" for name, a, b in zip(parts, ends, ends[1:], strict=False)]
    elif isinstance(net, Converted):
        said.append(f"The network in `model`, of the path {_path(net.model)}, is read on the path {_path(model)}.")
        if isinstance(model.sampler, FewStep) and model.sampler.gamma in (0, 1) and not model.sampler.target and plain:
            said.append(
                "`model` is a pipeline of diffusers that is sampled at the same noise levels, and so makes the same"
                " samples, but for what is left of the data at its largest noise: its own README says how."
            )
    elif isinstance(net, OutputAdapters):
        said.append(
            "`model.safetensors` is adapters on blocks of the network in `base`, which plain diffusers does not know;"
            " `base` alone is the model before distillation."
        )
    sampler = model.sampler
    asked = [m for m in sampler.modules() if isinstance(m, Denoiser)] if isinstance(sampler, nn.Module) else []
    helpers = [f"`{name}`" for name, part in parts.items() if any(part is m for m in asked)]
    if helpers:
        said.append(f"Its sampler calls the model in {' and '.join(helpers)} too, which plain diffusers cannot do.")
    return "\n" + "\n".join(said) + "\n" if said else ""


def _path(model: Denoiser) -> str:
    return type(model.path).__name__
