"""Models as pipelines of diffusers, to disk, and the lines of Python that sample them without this library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path as File
from typing import Any

import torch

from limbeck.models.autoencoder import Autoencoder
from limbeck.models.denoiser import Denoiser
from limbeck.models.diffusers_net import DiffusersNet
from limbeck.models.diffusers_read import PREDICTIONS, quiet
from limbeck.models.path import EDM, Discrete, Flow, Path
from limbeck.models.sampling import FewStep, Ode, Sampler

__all__ = ["has_scheduler", "is_reproduced", "usage", "write_network", "write_pipeline"]


def has_scheduler(model: Denoiser) -> bool:
    """Whether diffusers has a scheduler of the model's path that takes what it predicts."""
    match model.path:
        case Discrete():
            return model.prediction in PREDICTIONS.values()
        case Flow():
            return model.prediction == "velocity"
        case EDM():
            return model.prediction == "edm"
        case _:
            return False


def place_of(network: torch.nn.Module) -> str:
    """The network's folder in a pipeline's."""
    return "unet" if type(network).__name__ == "UNet2DModel" else "transformer"


def write_network(model: Denoiser, folder: File) -> None:
    """Write the network alone, in the folder of its kind."""
    assert isinstance(model.net, DiffusersNet)
    network: Any = model.net.model
    with quiet():
        network.save_pretrained(folder / place_of(network))


def write_pipeline(model: Denoiser, folder: File, autoencoder: Autoencoder | None = None) -> None:
    """Write the network and a scheduler that samples as the model is sampled.

    A UNet becomes a ``ConsistencyModelPipeline``, the one pipeline of diffusers that takes labels for a UNet without
    text; it runs with any scheduler of betas. A transformer of latents becomes a ``DiTPipeline``. A transformer of
    images, and a flow or EDM with labels, has no pipeline there: its two parts are written.
    """
    from diffusers import ConsistencyModelPipeline, DiTPipeline

    inner = model.net
    assert isinstance(inner, DiffusersNet)
    network: Any = inner.model
    scheduler = _scheduler(model, inner)
    with quiet():
        if type(network).__name__ == "UNet2DModel" and isinstance(model.path, Discrete):
            ConsistencyModelPipeline(unet=network, scheduler=scheduler).save_pretrained(folder)
            return
        if autoencoder is not None and isinstance(model.path, Discrete):
            DiTPipeline(transformer=network, vae=autoencoder.vae, scheduler=scheduler).save_pretrained(folder)
            return
        network.save_pretrained(folder / place_of(network))
        scheduler.save_pretrained(folder / "scheduler")


def _scheduler(model: Denoiser, inner: DiffusersNet) -> Any:
    import diffusers

    fresh = isinstance(model.sampler, FewStep) and model.sampler.gamma == 1 and model.sampler.nfe > 1
    if isinstance(model.path, Flow):
        return diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=inner.steps, stochastic_sampling=fresh)
    if isinstance(model.path, EDM):
        return diffusers.EDMEulerScheduler(**asdict(model.path), sigma_data=model.data)
    assert isinstance(model.path, Discrete), "see has_scheduler"
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

    That is DDIM and Euler at equal steps, and few steps that keep all of their noise or none of it; on EDM's path one
    step, because EDM's scheduler ends at its smallest noise where ours are at the data already.
    """
    if isinstance(path, EDM):
        return sampler in (Ode(1), FewStep())
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


def usage(model: Denoiser, autoencoder: Autoencoder | None = None) -> str:
    """The lines of Python that sample the written folder with diffusers alone; what they cannot do is said."""
    inner, sampler = model.net, model.sampler
    assert isinstance(inner, DiffusersNet)
    network, path = type(inner.model).__name__, model.path
    times = sampler.times if isinstance(sampler, FewStep) else [1 - k / sampler.nfe for k in range(sampler.nfe)]
    known = not isinstance(path, Discrete) or not isinstance(sampler, FewStep) or sampler.gamma < 1
    regular = known or (_even(times) and _divides(len(times), path))  # else a scheduler is given its steps
    whole = isinstance(path, Discrete) and (autoencoder is None) == (network == "UNet2DModel")
    if whole and (autoencoder is None or (regular and autoencoder.shift == 0)):  # else its pipeline is not quite ours
        told = f"num_inference_steps={len(times)}" if regular else f"timesteps={_steps(times, inner)}"
        labels = "class_labels=[0, 1, 2, 3], " if model.classes else ""
        asked = f"batch_size=4, {labels}{told}" if autoencoder is None else f"{labels}guidance_scale=1.0, {told}"
        code = (
            "from diffusers import DiffusionPipeline\n\npipe = DiffusionPipeline.from_pretrained(folder)\n"
            f"images = pipe({asked}).images"
        )
    else:
        kind, edm = type(_scheduler(model, inner)).__name__, isinstance(path, EDM)
        noise, fed = (f"{path.sigma_max:g} * ", "scheduler.scale_model_input(x, t)") if edm else ("", "x")
        steps = str(len(times)) if regular else f"timesteps={_steps(times, inner)}"
        steps = f"sigmas={[round(t, 4) for t in times]}" if isinstance(path, Flow) else steps
        labels = "torch.arange(4)" if model.classes else "None"
        code = (
            "import diffusers\nimport torch\n\n"
            f'model = diffusers.{network}.from_pretrained(folder, subfolder="{place_of(inner.model)}")\n'
            f'scheduler = diffusers.{kind}.from_pretrained(folder, subfolder="scheduler")\n'
            f"scheduler.set_timesteps({steps})\nx = {noise}torch.randn(4, {', '.join(map(str, model.shape))})\n"
            "with torch.no_grad():\n    for t in scheduler.timesteps:\n"
            f"        said = model({fed}, t.expand(4), class_labels={labels}, return_dict=False)[0]\n"
            f"        said = said[:, :{model.shape[0]}]\n"
            "        x = scheduler.step(said, t, x).prev_sample"
        )
        if autoencoder is not None:
            code += (
                '\n    vae = diffusers.AutoencoderKL.from_pretrained(folder, subfolder="vae")\n'
                f"    images = vae.decode(x / {autoencoder.scale:g} + {autoencoder.shift:g}).sample"
            )
    exact = is_reproduced(sampler, path)
    note = "" if exact else (
        "\n\nThat is not how the model was trained to be sampled: for its own images, use limbeck."
    )  # fmt: skip
    return f"```python\n{code}\n```{note}"


def _steps(times: Sequence[float], inner: DiffusersNet) -> list[int]:
    """A scheduler's own numbers of these times."""
    return [round(t * inner.steps) - 1 for t in times]
