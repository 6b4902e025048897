"""A Gaussian mixture whose noised scores are known in closed form: a teacher without error, and a world to test in."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from limbeck.models.denoiser import Denoiser
from limbeck.models.path import Flow, Path, wide

__all__ = ["GaussianMixture", "exact", "grid_of_modes", "ring"]


class GaussianMixture(nn.Module):
    """``p(x) = sum_k w_k N(x; mu_k, std^2)``. As a network it answers ``E[x0 | x_t, y]``: prediction ``x0``.

    Given mode k, ``x_t ~ N(alpha mu_k, alpha^2 std^2 + sigma^2)``, hence

        E[x0 | x_t, k] = mu_k + alpha std^2 / (alpha^2 std^2 + sigma^2) (x_t - alpha mu_k)

    and the modes are weighed by their posterior probability; a label leaves only its own modes.

    Args:
        means: (K, D).
        std: of every mode.
        weights: (K,), sum 1; equal by default.
        labels: (K,) int64, the class of every mode; one class by default.
        path: the noise path.
    """

    def __init__(
        self, means: Tensor, std: float, weights: Tensor | None = None, labels: Tensor | None = None,
        path: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        count = len(means)
        self.std, self.path = std, path or Flow()
        self.register_buffer("means", means)
        self.register_buffer("weights", torch.full((count,), 1 / count) if weights is None else weights)
        self.register_buffer("labels", torch.zeros(count, dtype=torch.int64) if labels is None else labels)
        self.classes = int(self.labels.max()) + 1

    def _joint(self, x: Tensor, t: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """log p(x_t, k | y) (B, K), and the noised modes' variance and alpha (B, 1)."""
        alpha, sigma = (wide(c, x) for c in (self.path.alpha(t), self.path.sigma(t)))
        variance = (alpha * self.std).square() + sigma.square()
        apart = (x[:, None] - alpha[:, None] * self.means).square().sum(-1)
        log = self.weights.log() - apart / (2 * variance) - x.shape[1] / 2 * (2 * math.pi * variance).log()
        if y is not None:
            own = (self.labels == y[:, None]) | (y[:, None] < 0) | (y[:, None] == self.classes)
            share = torch.where(own, self.weights, 0).sum(1, keepdim=True)
            log = log.masked_fill(~own, -math.inf) - share.log()
        return log, variance, alpha

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        """``E[x0 | x_t, y]`` (B, D)."""
        log, variance, alpha = self._joint(x, t, y)
        posterior = log.softmax(1)
        gain = alpha * self.std**2 / variance
        return posterior @ self.means * (1 - gain * alpha) + gain * x

    def log_density(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """``log p_t(x | y)``, (B,), nats."""
        return self._joint(x, t, y)[0].logsumexp(1)

    def sample(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Clean samples (count, D) and their labels (count,)."""
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        drawn = torch.randn(count, self.means.shape[1], generator=generator)
        return self.means[which] + self.std * drawn, self.labels[which]


def ring(modes: int = 8, *, radius: float = 1.0, std: float = 0.06, classes: int = 1, path: Path | None = None,
         weights: Tensor | None = None) -> GaussianMixture:  # fmt: skip
    """Modes on a circle; the classes are neighbours: with 8 modes and 4 classes, two modes each."""
    angles = torch.arange(modes) * (2 * math.pi / modes)
    means = radius * torch.stack([angles.cos(), angles.sin()], 1)
    return GaussianMixture(means, std, weights, torch.arange(modes) * classes // modes, path)


def grid_of_modes(
    side: int = 5, *, spread: float = 2.0, std: float = 0.05, path: Path | None = None
) -> GaussianMixture:
    """``side * side`` modes on a square from ``-spread / 2`` to ``spread / 2``; one class."""
    line = torch.linspace(-spread / 2, spread / 2, side)
    return GaussianMixture(torch.cartesian_prod(line, line), std, path=path)


def exact(mixture: GaussianMixture) -> Denoiser:
    """The mixture as a model; conditional where it has several classes."""
    classes = mixture.classes if mixture.classes > 1 else 0
    return Denoiser(mixture, shape=(mixture.means.shape[1],), path=mixture.path, prediction="x0", classes=classes)
