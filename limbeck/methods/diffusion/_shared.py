"""What the methods of this family share: trainable copies, denoising losses, few-step rollouts, times and
discriminators."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.core.modules import Taps, eval_mode
from limbeck.losses.score import distance
from limbeck.models.denoiser import Denoiser
from limbeck.models.gan import FeatureDiscriminator
from limbeck.models.low_rank import adapted
from limbeck.models.path import EDM, Path, wide

__all__ = [
    "Target", "critic_of", "denoising", "discriminator_of", "karras_times", "logits_of", "lognormal_times",
    "noised_logits", "produce", "score_gap", "simulate", "still", "trainable", "uniform_times", "without_labels",
]  # fmt: skip

Target = Literal["x0", "eps", "v", "velocity", "edm"]


def trainable(model: Denoiser) -> Denoiser:
    """A copy that learns, in training mode, whatever :func:`limbeck.freeze` did to the original."""
    made = copy.deepcopy(model)
    for module in made.modules():
        vars(module).pop("limbeck_frozen", None)
    return made.requires_grad_(True).train()


def critic_of(teacher: Denoiser, student: Denoiser, rank: int = 0, alpha: float = 0.0) -> Denoiser:
    """What learns the student's distribution: a copy of the teacher, or with a ``rank`` its own weights with adapters;
    a copy of the student where the teacher has no weights."""
    if not any(True for _ in teacher.parameters()):
        return trainable(student)
    return adapted(teacher, rank, alpha) if rank else trainable(teacher)


def uniform_times(x: Tensor, low: float = 0.02, high: float = 0.98) -> Tensor:
    """(B,) times, uniform between two ends."""
    return low + (high - low) * torch.rand(len(x), device=x.device)


def karras_times(path: Path, x: Tensor, low: float = 0.0, high: float = 0.8) -> Tensor:
    """(B,) times at noise levels ``sigma / alpha`` uniform on a part of Karras' grid from 0.002 to 80; on any path."""
    return path.time(EDM().sigma(uniform_times(x, low, high)))


def lognormal_times(path: Path, x: Tensor, mean: float = -1.2, std: float = 1.2) -> Tensor:
    """(B,) times at noise levels ``ln(sigma / alpha) ~ N(mean, std^2)``, EDM's for training; on any path."""
    return path.time((mean + std * torch.randn(len(x), device=x.device)).exp())


@contextmanager
def still(*models: nn.Module) -> Generator[None]:
    """Inside, models are in eval mode and their parameters get no gradient: what they say has one for its input
    alone."""
    learning = [p for model in models for p in model.parameters() if p.requires_grad]
    try:
        with eval_mode(*models):
            for p in learning:
                p.requires_grad_(False)
            yield
    finally:
        for p in learning:
            p.requires_grad_(True)


def denoising(
    model: nn.Module, x0: Tensor, t: Tensor, y: Tensor | None = None, *, target: Target = "eps",
    noise: Tensor | None = None, extra: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The mean squared error a sample, (B,), of a model on noised ``x0`` (detached) at times t (B,), in a stated
    target.

    In the target ``eps`` its weight in x0 is ``(alpha / sigma)^2``, in ``velocity`` on the flow path ``1 / t^2``, in
    ``edm``, the preconditioned F, ``(s^2 + d^2) / (s d)^2`` with ``s = sigma / alpha`` and the data's deviation d.
    """
    eps = torch.randn_like(x0) if noise is None else noise
    x0 = x0.detach()
    said = model(model.path.noised(x0, eps, t), t, y, extra)
    match target:
        case "x0":
            apart = said.x0 - x0
        case "eps":
            apart = said.eps - eps
        case "edm":
            level = model.path.ratio(t).clamp(min=1e-6)
            apart = wide((level.square() + model.data**2).sqrt() / (level * model.data), x0) * (said.x0 - x0)
        case _:
            true = said._replace(x0=x0, eps=eps)
            apart = getattr(said, target) - getattr(true, target)
    return apart.square().flatten(1).mean(1)


@torch.no_grad()
def score_gap(  # noqa: PLR0917 (samples, who judges them, and between which times)
    x: Tensor, y: Tensor, teacher: nn.Module, critic: nn.Module, low: float, high: float, floor: float = 1e-6
) -> Tensor:
    """DMD's direction at clean samples, noised to random times: ``(mu_fake - mu_real) / mean |x - mu_real|``.

    (B, ...), read in eval mode. :func:`limbeck.losses.score.follow` makes a loss of it, whose gradient is that of the
    reverse KL divergence; its negative leads to the teacher.
    """
    t = uniform_times(x, low, high)
    x_t = teacher.path.noised(x, torch.randn_like(x), t)
    with eval_mode(critic):
        real, fake = teacher(x_t, t, y).x0, critic(x_t, t, y).x0
    return (fake - real) / distance(x, real, floor)


def produce(student: nn.Module, noise: Tensor, y: Tensor | None = None, t: float = 1.0) -> Tensor:
    """A one-step generator: the ``x0`` that the student sees in pure noise at time t, with gradient."""
    return student(student.prior(noise, t), t, y).x0


@torch.no_grad()
def simulate(student: nn.Module, noise: Tensor, y: Tensor | None, times: tuple[float, ...], upto: int) -> Tensor:
    """The state at ``times[upto]`` that the student's own sampler reaches from pure noise, with fresh noise at every
    step.

    DMD2's backward simulation (https://arxiv.org/abs/2405.14867, section 4.4): what is trained on is what is sampled
    from.
    """
    x = student.prior(noise, times[0])
    for t, s in itertools.pairwise(times[: upto + 1]):
        x = student.path.noised(student(x, t, y).x0, torch.randn_like(x), x.new_full((len(x),), s))
    return x


def without_labels(y: Tensor, share: float) -> Tensor:
    """Labels (B,), a random share of which are -1, so that a model also learns what is so without one."""
    return torch.where(torch.rand(len(y), device=y.device) < share, -1, y)


def discriminator_of(model: Denoiser) -> FeatureDiscriminator:
    """Heads on a denoiser's inner features, at ``model.middle``."""
    x = torch.zeros(2, *model.shape)
    (shape,) = Taps(model.middle).shapes(model, x.to(next(model.parameters())), torch.full((2,), 0.5))
    return FeatureDiscriminator(shape)


def logits_of(head: nn.Module, model: nn.Module, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
    """(B,) logits, high for real, of noised samples; the gradient reaches ``x_t``, the model and the head."""
    _, (feature,) = Taps(model.middle)(model, x_t, t, y)
    return head(feature)


def noised_logits(  # noqa: PLR0917 (who judges what, and between which times)
    head: nn.Module, model: nn.Module, x: Tensor, y: Tensor, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """(B,) logits, high for real, of clean samples noised to random times."""
    t = uniform_times(x, low, high)
    return logits_of(head, model, model.path.noised(x, torch.randn_like(x), t), t, y)
