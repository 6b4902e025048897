"""diffusers' networks and schedulers in the words of this library, in and out.

A scheduler's betas are a :class:`Discrete` path on which the network is told ``t T - 1``; a flow-matching scheduler is
the straight path, on which it is told ``t T``. What is told, and what comes out, is the network's own: weights are not
touched. Schedulers' clipping of samples is left out, in both directions.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import InputError, brief, nearest
from limbeck.models.denoiser import Denoiser
from limbeck.models.path import Discrete, Flow, Path, Prediction
from limbeck.models.sampling import FewStep, Ode, Sampler

__all__ = ["DiffusersNet", "cosine", "is_pipeline", "is_reproduced", "read_pipeline", "unet", "usage", "write_pipeline"]

NETWORKS = ("UNet2DModel", "DiTTransformer2DModel")
DISCRETE = (
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
    "HeunDiscreteScheduler", "LCMScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "TCDScheduler",
    "UniPCMultistepScheduler",
)  # fmt: skip
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
PLACES = ("unet", "transformer")  # of the network in a pipeline's folder


class DiffusersNet(nn.Module):
    """A ``UNet2DModel`` or ``DiTTransformer2DModel`` as ``net(x, t, y, extra)``.

    Args:
        model: of diffusers.
        steps: T of its scheduler.
        first: the time of the scheduler's step 0, in steps: 1 for betas, 0 for a flow.
        classes: how many there are; the null label is the embedding after the last, where there is one.
        betas: the scheduler's settings that its table is made of; empty for a flow.
    """

    extras = 0

    def __init__(
        self, model: nn.Module, *, steps: int = 1000, first: int = 0, classes: int = 0,
        betas: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.steps, self.first, self.classes = model, steps, first, classes
        self.betas = dict(betas or {})
        self.null = embeddings(model) > classes
        blocks = getattr(model, "transformer_blocks", None)
        self.middle = "model.mid_block" if blocks is None else f"model.transformer_blocks.{(len(blocks) - 1) // 2}"
        for module in model.modules():  # its own random dropping of labels in training mode: methods decide on that
            if type(module).__name__ == "LabelEmbedding":
                module.dropout_prob = 0.0

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        told = (t * self.steps - self.first).clamp(min=0)
        if getattr(self.model.config, "time_embedding_type", None) == "learned":
            told = told.round().long().clamp(max=self.steps - 1)
        if y is not None and not self.null and bool((y >= self.classes).any()):
            raise InputError("labels", "none", "cannot be left out: this model has no embedding for the null label")
        said = self.model(x, told, class_labels=y, return_dict=False)[0]
        return said[:, : x.shape[1]]  # what follows in DiT is a variance


def embeddings(model: nn.Module) -> int:
    """How many labels a network has an embedding of, the null label included."""
    found = [m.weight.shape[0] for name, m in model.named_modules()
             if isinstance(m, nn.Embedding) and ("class_embed" in name or "embedding_table" in name)]  # fmt: skip
    return found[0] if found else 0


def cosine(steps: int = 1000) -> dict[str, Any]:
    """The settings of the cosine schedule (Nichol & Dhariwal, 2021, https://arxiv.org/abs/2102.09672)."""
    return {"num_train_timesteps": steps, "beta_schedule": "squaredcos_cap_v2"}


def unet(
    widths: Sequence[int], *, shape: Sequence[int], classes: int | Sequence[str] = 0, layers: int = 1,
    path: Path | None = None, prediction: Prediction | None = None, betas: Mapping[str, Any] | None = None,
) -> Denoiser:  # fmt: skip
    """A fresh UNet of images through diffusers; a width a resolution, with attention at the lowest.

    By default on the cosine schedule, predicting v; with a null label beside the classes, so that it can be guided.

    Raises:
        InputError: for an image that cannot be halved so often.
    """
    from diffusers import UNet2DModel

    channels, height, width = shape
    halvings = 2 ** (len(widths) - 1)
    if height != width or height % halvings:
        fix = f"is the size; this UNet halves a square {len(widths) - 1} times: resize the images, or name fewer widths"
        raise InputError("model", f"{height}x{width}", fix)
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if g <= min(widths) // 4 and all(w % g == 0 for w in widths))
    plain = len(widths) - 1
    count = classes if isinstance(classes, int) else len(classes)
    net = UNet2DModel(
        sample_size=height, in_channels=channels, out_channels=channels, layers_per_block=layers,
        block_out_channels=tuple(widths), norm_num_groups=groups, attention_head_dim=None,
        down_block_types=(*["DownBlock2D"] * plain, "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", *["UpBlock2D"] * plain),
        num_class_embeds=count + 1 if count else None,
    )  # fmt: skip
    if path is None:
        betas = cosine() if betas is None else betas
        path = _table(betas)
    discrete = isinstance(path, Discrete)
    inner = DiffusersNet(
        net, steps=len(path.alphas_cumprod) if discrete else 1000, first=int(discrete), classes=count, betas=betas
    )
    kind = prediction or ("v" if discrete else "velocity")
    return Denoiser(inner, shape=shape, path=path, prediction=kind, classes=classes)


def _table(betas: Mapping[str, Any]) -> Discrete:
    from diffusers import DDIMScheduler

    return Discrete(tuple(DDIMScheduler(**betas).alphas_cumprod.tolist()))


# In


def is_pipeline(folder: File) -> bool:
    """Whether a folder holds a pipeline of diffusers, or one of its networks."""
    if (folder / "model_index.json").is_file() or any((folder / p / "config.json").is_file() for p in PLACES):
        return True
    return (folder / "config.json").is_file() and "_class_name" in _json(folder / "config.json")


def read_pipeline(folder: File, names: Sequence[str] | None = None) -> Denoiser:
    """The model of a pipeline's folder, or of a network's folder with a ``scheduler_config.json``.

    Args:
        folder: of ``save_pretrained``.
        names: the classes' names, or ``None`` to number what it has embeddings of.

    Raises:
        InputError: for a network, a scheduler or a prediction that is not known, and for pickled weights.
    """
    home = next((folder / p for p in PLACES if (folder / p / "config.json").is_file()), folder)
    config = _json(home / "config.json")
    model = _network(home, config)
    where = next((p for p in (folder / "scheduler", folder) if (p / "scheduler_config.json").is_file()), None)
    if where is None:
        raise InputError("model", str(folder), "has no scheduler_config.json: its noise is not known; save it beside")
    path, prediction, betas = _schedule(where)
    size = config["sample_size"]
    shape = (config["in_channels"], *((size, size) if isinstance(size, int) else size))
    held = embeddings(model)
    count = len(names) if names is not None else held - (config["_class_name"] == "DiTTransformer2DModel")
    if held and not count <= held <= count + 1:
        raise InputError("model", str(folder), f"has embeddings of {held} labels; the classes are {count}")
    classes = (names if names is not None else count) if held else 0
    discrete = isinstance(path, Discrete)
    inner = DiffusersNet(
        model, steps=len(path.alphas_cumprod) if isinstance(path, Discrete) else betas["num_train_timesteps"],
        first=int(discrete), classes=count if held else 0, betas=betas,
    )  # fmt: skip
    return Denoiser(inner, shape=shape, path=path, prediction=prediction, classes=classes)


def _json(path: File) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("model", str(path), f"cannot be read: {brief(error)}") from None
    if not isinstance(found, dict):
        raise InputError("model", str(path), "is damaged: it holds no settings")
    return found


def _network(home: File, config: Mapping[str, Any]) -> nn.Module:
    import diffusers

    kind = str(config.get("_class_name", ""))
    if kind not in NETWORKS:
        raise InputError("model", f"{home}: {kind or 'no _class_name'}", f"is not read; {' and '.join(NETWORKS)} are")
    if not any(home.glob("*.safetensors")):
        pickled = [f.name for f in sorted(home.iterdir()) if f.suffix in PICKLES]
        fix = "may be a pickle, which can run code when it is read; save it with safe_serialization=True"
        raise InputError("weights", str(home / (pickled or ["diffusion_pytorch_model.safetensors"])[0]),
                         fix if pickled else "does not exist")  # fmt: skip
    try:
        with _quiet():
            return getattr(diffusers, kind).from_pretrained(
                home, use_safetensors=True, local_files_only=True, torch_dtype=torch.float32
            )
    except Exception as error:  # a config, a file, a shape: each with exceptions of its own
        raise InputError("model", str(home), f"cannot be read by diffusers: {brief(error)}") from None


def _schedule(where: File) -> tuple[Path, Prediction, dict[str, Any]]:
    """The path, what is predicted, and the settings that make the path."""
    import diffusers

    config = _json(where / "scheduler_config.json")
    kind, said = str(config.get("_class_name", "")), str(config.get("prediction_type", "epsilon"))
    if kind in FLOW or (kind in DISCRETE and config.get("use_flow_sigmas")):
        if kind in DISCRETE and said != "flow_prediction":
            raise InputError("prediction_type", said, f"is not read with flow sigmas ({where}); flow_prediction is")
        return Flow(), "velocity", {"num_train_timesteps": config.get("num_train_timesteps", 1000)}
    if kind not in DISCRETE:
        known = (*DISCRETE, *FLOW)
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


class _quiet:
    """diffusers' remarks about attention and devices are not a user's business here."""

    def __enter__(self) -> None:
        self.log = logging.getLogger("diffusers")
        self.level = self.log.level
        self.log.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self.log.setLevel(self.level)


# Out


def write_pipeline(model: Denoiser, folder: File) -> None:
    """Write the network and a scheduler that samples as the model is sampled.

    A UNet becomes a ``ConsistencyModelPipeline``, the one pipeline of diffusers that takes labels for a UNet without
    text; it runs with any scheduler of betas. A transformer of images, and a flow with labels, has no pipeline there:
    its two parts are written.
    """
    from diffusers import ConsistencyModelPipeline

    inner = model.net
    assert isinstance(inner, DiffusersNet)
    network: Any = inner.model
    scheduler = _scheduler(model, inner)
    with _quiet():
        if type(network).__name__ == "UNet2DModel" and isinstance(model.path, Discrete):
            ConsistencyModelPipeline(unet=network, scheduler=scheduler).save_pretrained(folder)
            return
        place = "unet" if type(network).__name__ == "UNet2DModel" else "transformer"
        network.save_pretrained(folder / place)
        scheduler.save_pretrained(folder / "scheduler")


def _scheduler(model: Denoiser, inner: DiffusersNet) -> Any:
    import diffusers

    fresh = isinstance(model.sampler, FewStep) and model.sampler.gamma == 1 and model.sampler.nfe > 1
    if isinstance(model.path, Flow):
        return diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=inner.steps, stochastic_sampling=fresh)
    if not isinstance(model.path, Discrete):
        raise InputError("path", type(model.path).__name__, "has no scheduler in diffusers; use Discrete or Flow")
    kind = {ours: theirs for theirs, ours in PREDICTIONS.items()}[model.prediction]
    settings = {**(inner.betas or {"trained_betas": _betas(model.path), "num_train_timesteps": inner.steps})}
    settings |= {"prediction_type": kind, "clip_sample": False}
    if fresh:
        return diffusers.LCMScheduler(**settings, original_inference_steps=model.sampler.nfe)
    return diffusers.DDIMScheduler(**settings, timestep_spacing="trailing")


def _betas(path: Discrete) -> list[float]:
    table = torch.tensor((1.0, *path.alphas_cumprod), dtype=torch.float64)
    return (1 - table[1:] / table[:-1]).tolist()


def is_reproduced(sampler: Sampler, path: Path) -> bool:
    """Whether the written scheduler, used as :func:`usage` says, samples as this sampler does.

    That is DDIM and Euler at equal steps, and few steps that keep all of their noise or none of it.
    """
    match sampler:
        case Ode(solver="ddim", start=1.0):
            return isinstance(path, Flow) or _divides(sampler.nfe, path)
        case FewStep(target=False, extra=(), gamma=1.0):
            return sampler.times[0] == 1.0
        case FewStep(target=False, extra=(), gamma=0.0) if sampler.times[0] == 1.0:
            return isinstance(path, Flow) or (_even(sampler.times) and _divides(sampler.nfe, path))
        case _:
            return False


def _divides(steps: int, path: Path) -> bool:
    return isinstance(path, Discrete) and len(path.alphas_cumprod) % steps == 0


def _even(times: Sequence[float]) -> bool:
    return all(abs(t - (1 - k / len(times))) < 1e-6 for k, t in enumerate(times))


def usage(model: Denoiser) -> str:
    """The lines of Python that sample the written folder with diffusers alone; what they cannot do is said."""
    inner, sampler = model.net, model.sampler
    assert isinstance(inner, DiffusersNet)
    network, flow = type(inner.model).__name__, isinstance(model.path, Flow)
    times = sampler.times if isinstance(sampler, FewStep) else [1 - k / sampler.nfe for k in range(sampler.nfe)]
    if network == "UNet2DModel" and not flow:
        regular = not isinstance(sampler, FewStep) or (_even(times) and _divides(len(times), model.path))
        told = f"num_inference_steps={len(times)}"
        told = told if regular else f"timesteps={[round(t * inner.steps) - 1 for t in times]}"
        labels = "class_labels=[0, 1, 2, 3], " if model.classes else ""
        code = (
            "from diffusers import DiffusionPipeline\n\npipe = DiffusionPipeline.from_pretrained(folder)\n"
            f"images = pipe(batch_size=4, {labels}{told}).images"
        )
    else:
        kind = type(_scheduler(model, inner)).__name__
        place = "unet" if network == "UNet2DModel" else "transformer"
        steps = f"sigmas={[round(t, 4) for t in times]}" if flow else str(len(times))
        labels = "torch.arange(4)" if model.classes else "None"
        code = (
            f"import torch\nfrom diffusers import {network}, {kind}\n\n"
            f'model = {network}.from_pretrained(folder, subfolder="{place}")\n'
            f'scheduler = {kind}.from_pretrained(folder, subfolder="scheduler")\n'
            f"scheduler.set_timesteps({steps})\nx = torch.randn(4, {', '.join(map(str, model.shape))})\n"
            "with torch.no_grad():\n    for t in scheduler.timesteps:\n"
            f"        said = model(x, t.expand(4), class_labels={labels}, return_dict=False)[0][:, :{model.shape[0]}]\n"
            "        x = scheduler.step(said, t, x).prev_sample"
        )
    exact = is_reproduced(sampler, model.path)
    note = "" if exact else (
        "\n\nThat is not how the model was trained to be sampled: for its own images, use limbeck."
    )  # fmt: skip
    return f"```python\n{code}\n```{note}"
