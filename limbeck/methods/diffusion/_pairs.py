"""Pairs of noise and sample that a teacher's ODE makes, and straightening a flow on them: first stages of methods that
learn the whole way from noise to data at once."""

from __future__ import annotations

from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.method import Clock, Fraction, Method, Weight, value
from limbeck.core.modules import eval_mode
from limbeck.data.samples import Samples, SampleSet
from limbeck.methods.diffusion._shared import denoising, uniform_times, without_labels
from limbeck.models.denoiser import Denoiser
from limbeck.models.sampling import Sampler

__all__ = ["Reflow", "pairs"]


@torch.no_grad()
def pairs(
    model: nn.Module, like: SampleSet, count: int, *, sampler: Sampler | None = None, seed: int = 0, chunk: int = 1024
) -> SampleSet:
    """``count`` samples of a model with the noise they were made from, labelled as often as the set ``like`` is.

    A function of the weights and the seed alone: a procedure that is taken up again makes the same pairs, and another
    model of the same seed gets the same noise and labels.

    Args:
        model: a :class:`Denoiser`, guided or not.
        like: gives labels and names; its samples are not looked at.
        sampler: the model's own by default.
        chunk: samples made at a time.
    """
    drawn = torch.Generator().manual_seed(seed)
    y = like.y[torch.randint(len(like), (count,), generator=drawn)]
    noise = torch.randn(count, *model.shape, generator=drawn)
    place = model.noise(1, torch.Generator()).device
    with eval_mode(model):
        made = [
            (sampler or model.sampler)(model, n.to(place), own.to(place), drawn).cpu()
            for n, own in zip(noise.split(chunk), y.split(chunk))
        ]
    return SampleSet(torch.cat(made), y, like.classes, f"pairs of {like.name}", noise)


class Reflow(Method):
    """Flow straight and fast (Liu, Gong & Liu, 2023). https://arxiv.org/abs/2209.03003

        z = sqrt(1 - beta^2) noise + beta fresh noise,    L = E ||v(x_t, t) - (z - x)||^2,    x_t = (1 - t) x + t z

    on pairs (noise, x) of another model; with ``beta`` 1 it is flow matching on its samples, pairs forgotten.
    """

    student: Denoiser
    _: KW_ONLY
    beta: Weight = 0.0
    """Share of fresh noise: SlimFlow lets it fall from 1 to 0 (https://arxiv.org/abs/2407.12718)."""
    unlabelled: Fraction = 0.0
    """Share of the labels left out, so that the flow can be guided."""

    def loss(self, batch: Samples, clock: Clock) -> dict[str, Tensor]:
        beta, noise = value(self.beta, clock), batch.noise
        assert noise is not None
        z = (1 - beta**2) ** 0.5 * noise + beta * torch.randn_like(noise)
        y = without_labels(batch.y, self.unlabelled)
        t = uniform_times(batch.x, 0.0, 1.0)
        return {"reflow": denoising(self.student, batch.x, t, y, target="velocity", noise=z).mean()}
