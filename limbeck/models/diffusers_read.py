"""Pipelines of diffusers, from disk: a network and what its scheduler says of noise, as a model of this library.

Of a scheduler only the path and the kind of prediction are read: how it steps, and that it clips samples, is left out.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path as File
from typing import Any

import torch
from torch import nn

from limbeck.errors import InputError, brief, nearest
from limbeck.models.denoiser import Denoiser
from limbeck.models.diffusers_net import DiffusersNet, embeddings
from limbeck.models.load import PICKLES
from limbeck.models.path import EDM, Discrete, Flow, Path, Prediction

__all__ = ["PREDICTIONS", "is_pipeline", "quiet", "read_json", "read_network", "read_pipeline"]

NETWORKS = ("UNet2DModel", "DiTTransformer2DModel")
DISCRETE = (
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
    "HeunDiscreteScheduler", "LCMScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "TCDScheduler",
    "UniPCMultistepScheduler",
)  # fmt: skip
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
KARRAS = ("EDMDPMSolverMultistepScheduler", "EDMEulerScheduler")
PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
PLACES = ("unet", "transformer")  # of the network in a pipeline's folder


def is_pipeline(folder: File) -> bool:
    """Whether a folder holds a pipeline of diffusers, or one of its networks."""
    if (folder / "model_index.json").is_file() or any((folder / p / "config.json").is_file() for p in PLACES):
        return True
    return (folder / "config.json").is_file() and "_class_name" in read_json(folder / "config.json")


def read_pipeline(folder: File, names: Sequence[str] | None = None) -> Denoiser:
    """The model of a pipeline's folder, or of a network's folder with a ``scheduler_config.json``.

    Args:
        folder: of ``save_pretrained``.
        names: the classes' names, or ``None`` to number what it has embeddings of.

    Raises:
        InputError: for a network, a scheduler or a prediction that is not known, and for pickled weights.
    """
    home = next((folder / p for p in PLACES if (folder / p / "config.json").is_file()), folder)
    config = read_json(home / "config.json")
    model = read_network(home, config)
    where = next((p for p in (folder / "scheduler", folder) if (p / "scheduler_config.json").is_file()), None)
    if where is None:
        raise InputError("model", str(folder), "has no scheduler_config.json: its noise is not known; save it beside")
    path, prediction, betas = _schedule(where)
    steps, data = betas.get("num_train_timesteps", 1000), betas.pop("sigma_data", 0.5)
    size = config["sample_size"]
    shape = (config["in_channels"], *((size, size) if isinstance(size, int) else size))
    held = embeddings(model)
    count = len(names) if names is not None else held - (config["_class_name"] == "DiTTransformer2DModel")
    if held and not count <= held <= count + 1:
        raise InputError("model", str(folder), f"has embeddings of {held} labels; the classes are {count}")
    classes = (names if names is not None else count) if held else 0
    inner = DiffusersNet(model, path, steps=steps, classes=count if held else 0, betas=betas)
    return Denoiser(inner, shape=shape, path=path, prediction=prediction, classes=classes, data=data)


def read_json(path: File) -> dict[str, Any]:
    """The settings in a file of JSON.

    Raises:
        InputError: for a file that is missing or damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("model", str(path), f"cannot be read: {brief(error)}") from None
    if not isinstance(found, dict):
        raise InputError("model", str(path), "is damaged: it holds no settings")
    return found


def read_network(home: File, config: Mapping[str, Any], kinds: Sequence[str] = NETWORKS) -> nn.Module:
    """The network of a folder of ``save_pretrained``, from safetensors; ``config`` is its ``config.json``.

    Raises:
        InputError: for a kind that is not known, pickled weights, and weights that do not fit.
    """
    import diffusers

    kind = str(config.get("_class_name", ""))
    if kind not in kinds:
        raise InputError("model", f"{home}: {kind or 'no _class_name'}", f"is not read; {' or '.join(kinds)} would be")
    if not any(home.glob("*.safetensors")):
        pickled = [f.name for f in sorted(home.iterdir()) if f.suffix in PICKLES]
        fix = "may be a pickle, which can run code when it is read; save it with safe_serialization=True"
        raise InputError("weights", str(home / (pickled or ["diffusion_pytorch_model.safetensors"])[0]),
                         fix if pickled else "does not exist")  # fmt: skip
    try:
        with quiet():
            return getattr(diffusers, kind).from_pretrained(
                home, use_safetensors=True, local_files_only=True, torch_dtype=torch.float32
            )
    except Exception as error:  # a config, a file, a shape: each with exceptions of its own
        raise InputError("model", str(home), f"cannot be read by diffusers: {brief(error)}") from None


def _schedule(where: File) -> tuple[Path, Prediction, dict[str, Any]]:
    """The path, what is predicted, and the settings that make the path."""
    import diffusers

    config = read_json(where / "scheduler_config.json")
    kind, said = str(config.get("_class_name", "")), str(config.get("prediction_type", "epsilon"))
    if kind in FLOW or (kind in DISCRETE and config.get("use_flow_sigmas")):
        if kind in DISCRETE and said != "flow_prediction":
            raise InputError("prediction_type", said, f"is not read with flow sigmas ({where}); flow_prediction is")
        return Flow(), "velocity", {"num_train_timesteps": config.get("num_train_timesteps", 1000)}
    if kind in KARRAS:
        return _karras(where, config, said)
    if kind not in DISCRETE:
        known = (*DISCRETE, *FLOW, *KARRAS)
        raise InputError("scheduler", f"{where}: {kind}", "is not read" + nearest(kind, known))
    if said not in PREDICTIONS:
        raise InputError("prediction_type", said, f"is not read ({where})" + nearest(said, tuple(PREDICTIONS)))
    cls = getattr(diffusers, kind)
    defaults = inspect.signature(cls.__init__).parameters
    betas = {name: config.get(name, defaults[name].default) for name in BETAS if name in defaults}
    try:
        table = cls(**betas).alphas_cumprod.tolist()
    except Exception as error:  # whatever a scheduler says of settings it cannot use
        raise InputError("scheduler", str(where), f"cannot be made: {brief(error)}") from None
    return Discrete(tuple(table)), PREDICTIONS[said], betas


def _karras(where: File, config: Mapping[str, Any], said: str) -> tuple[Path, Prediction, dict[str, Any]]:
    """EDM's path; its schedulers call the preconditioned network's answer ``epsilon``."""
    if said != "epsilon":
        raise InputError("prediction_type", said, f"is not read with EDM's schedulers ({where}); epsilon is")
    given = {name: float(config.get(name, default)) for name, default in
             {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}.items()}  # fmt: skip
    return EDM(**given), "edm", {"sigma_data": float(config.get("sigma_data", 0.5))}


class quiet:
    """diffusers' remarks about attention and devices are not a user's business here."""

    def __enter__(self) -> None:
        self.log = logging.getLogger("diffusers")
        self.level = self.log.level
        self.log.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self.log.setLevel(self.level)
