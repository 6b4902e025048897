"""Noise paths ``x_t = alpha(t) x0 + sigma(t) eps`` from clean data (t = 0) to noise (t = 1), on one set of conventions.

A network's prediction is always ``a x0 + b eps`` with known ``a`` and ``b``, so that ``x_t`` and the prediction give
both
``x0`` and ``eps`` by a 2x2 system: :func:`mixture` has the coefficients of every kind, :meth:`Path.solve` the solution.

    x0        1, 0
    eps       0, 1                                   Ho et al. (2020), https://arxiv.org/abs/2006.11239
    v         -sigma, alpha                          Salimans & Ho (2022), https://arxiv.org/abs/2202.00512
    velocity  alpha', sigma' (noise-ward, dx/dt)     Lipman et al. (2023), https://arxiv.org/abs/2210.02747
    edm       the preconditioned F, table 1          Karras et al. (2022), https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from limbeck.errors import InputError, nearest

__all__ = ["EDM", "VP", "Discrete", "Flow", "Path", "Prediction", "Trig", "check_prediction", "mixture", "wide"]

Prediction = Literal["x0", "eps", "v", "velocity", "edm"]
TINY = 1e-8


def wide(coefficient: Tensor, x: Tensor) -> Tensor:
    """(B,) -> (B, 1, ...), to multiply ``x`` (B, ...)."""
    return coefficient.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)


@dataclass(frozen=True)
class Path:
    """The noise path of a model. Times are tensors in [0, 1] of any shape; what comes back has that shape."""

    unit: ClassVar[bool] = False
    """Whether ``alpha^2 + sigma^2`` is 1 at all times."""

    def alpha(self, t: Tensor) -> Tensor:
        """The share of the data at time t."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """The share of the noise at time t."""
        raise NotImplementedError

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``d alpha / dt`` and ``d sigma / dt``."""
        raise NotImplementedError

    def time(self, ratio: Tensor) -> Tensor:
        """The time at which ``sigma / alpha`` is ``ratio``: what is at the same signal-to-noise ratio on another
        path."""
        raise NotImplementedError

    def ratio(self, t: Tensor) -> Tensor:
        """``sigma / alpha``, the noise level of variance-exploding models; infinite where there is no data left."""
        return self.sigma(t) / self.alpha(t)

    def log_snr(self, t: Tensor) -> Tensor:
        """``log(alpha / sigma)``, the lambda of DPM-Solver; +-infinity at the ends."""
        return self.alpha(t).log() - self.sigma(t).log()

    def noised(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """``alpha x0 + sigma eps``, (B, ...) at times (B,)."""
        return wide(self.alpha(t), x0) * x0 + wide(self.sigma(t), x0) * eps

    def renoised(self, x_s: Tensor, eps: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """From time s to the later t by the conditional kernel: ``alpha_{t|s} x_s + sigma_{t|s} eps``.

        ``alpha_{t|s} = alpha_t / alpha_s`` and ``sigma_{t|s}^2 = sigma_t^2 - alpha_{t|s}^2 sigma_s^2``.
        """
        a, b = self.kernel(s, t)
        return wide(a, x_s) * x_s + wide(b, x_s) * eps

    def kernel(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """``alpha_{t|s}`` and ``sigma_{t|s}`` of :meth:`renoised`."""
        a = self.alpha(t) / self.alpha(s)
        return a, (self.sigma(t).square() - (a * self.sigma(s)).square()).clamp(min=0).sqrt()

    def solve(
        self, x: Tensor, predicted: Tensor, t: Tensor, kind: Prediction, data: float = 0.5
    ) -> tuple[Tensor, Tensor]:
        """``x0`` and ``eps`` from a state and a prediction, both (B, ...), at times (B,).

        Args:
            data: standard deviation of the data, for ``edm``.
        """
        alpha, sigma = self.alpha(t), self.sigma(t)
        if kind == "x0":  # exact at t = 0 too, where no noise is left to be seen
            return predicted, (x - wide(alpha, x) * predicted) / wide(sigma.clamp(min=TINY), x)
        if kind == "eps":  # and where no data is left
            return (x - wide(sigma, x) * predicted) / wide(alpha.clamp(min=TINY), x), predicted
        a, b = (-sigma, alpha) if kind == "v" else mixture(self, t, kind, data)
        scale = 1 / (alpha * b - sigma * a)  # never zero: 1 for v, alpha sigma' - alpha' sigma for the velocity
        x0 = wide(b * scale, x) * x - wide(sigma * scale, x) * predicted
        eps = wide(alpha * scale, x) * predicted - wide(a * scale, x) * x
        return x0, eps


def mixture(path: Path, t: Tensor, kind: Prediction, data: float = 0.5) -> tuple[Tensor, Tensor]:
    """The coefficients ``a, b`` of a prediction ``a x0 + b eps``, in the shape of ``t``."""
    match kind:
        case "x0":
            return torch.ones_like(t), torch.zeros_like(t)
        case "eps":
            return torch.zeros_like(t), torch.ones_like(t)
        case "v":
            return -path.sigma(t), path.alpha(t)
        case "velocity":
            return path.rates(t)
        case "edm":
            alpha, ratio = path.alpha(t), path.ratio(t)
            skip = data**2 / (ratio.square() + data**2)
            out = ratio * data / (ratio.square() + data**2).sqrt()
            return (1 - skip) / out, -skip * path.sigma(t) / alpha / out


def check_prediction(kind: str) -> Prediction:
    """The kind, when it is one.

    Raises:
        InputError: with the nearest name.
    """
    if kind not in get_args(Prediction):
        raise InputError("prediction", kind, "is no kind of prediction" + nearest(kind, get_args(Prediction)))
    return kind  # type: ignore[return-value]


@dataclass(frozen=True)
class Flow(Path):
    """The straight path of flow matching and rectified flow: ``alpha = 1 - t``, ``sigma = t``."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(t), torch.ones_like(t)

    def time(self, ratio: Tensor) -> Tensor:
        return torch.where(ratio.isinf(), 1.0, ratio / (1 + ratio))


@dataclass(frozen=True)
class Trig(Path):
    """The circle ``alpha = cos(pi t / 2)``, ``sigma = sin(pi t / 2)``: TrigFlow, and the cosine VP schedule.

    TrigFlow's own time (Lu & Song, 2025, https://arxiv.org/abs/2410.11081) is the angle ``pi t / 2``.
    """

    unit: ClassVar[bool] = True

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(t * math.pi / 2).clamp(min=0)  # rounding makes it negative at 1

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t * math.pi / 2)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -math.pi / 2 * self.sigma(t), math.pi / 2 * self.alpha(t)

    def time(self, ratio: Tensor) -> Tensor:
        return torch.atan(ratio) * 2 / math.pi


@dataclass(frozen=True)
class VP(Path):
    """The variance-preserving path of a linear beta (Song et al., 2021, https://arxiv.org/abs/2011.13456)."""

    unit: ClassVar[bool] = True
    beta_min: float = 0.1
    beta_max: float = 20.0

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -t.square() * (self.beta_max - self.beta_min) / 4 - t * self.beta_min / 2

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).clamp(min=0).sqrt()

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha = self.alpha(t)
        slope = -alpha * (self.beta_min + t * (self.beta_max - self.beta_min)) / 2
        return slope, -alpha * slope / self.sigma(t).clamp(min=TINY)

    def time(self, ratio: Tensor) -> Tensor:
        level = torch.log1p(ratio.square()) / 2  # -log alpha
        spread = self.beta_max - self.beta_min
        return ((self.beta_min**2 + 4 * spread * level).sqrt() - self.beta_min) / spread


@dataclass(frozen=True)
class EDM(Path):
    """The variance-exploding path on Karras' grid: ``alpha = 1``; uniform steps of t are his steps of sigma.

    ``sigma = (s_min^(1/rho) + t (s_max^(1/rho) - s_min^(1/rho)))^rho`` (https://arxiv.org/abs/2206.00364, equation 5).
    At t = 0 a noise of ``sigma_min`` is left; samplers end with ``x0``.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    @cached_property
    def _ends(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        low, high = self._ends
        return (low + t * (high - low)).pow(self.rho)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self._ends
        return torch.zeros_like(t), self.rho * (high - low) * (low + t * (high - low)).pow(self.rho - 1)

    def time(self, ratio: Tensor) -> Tensor:
        low, high = self._ends
        return ((ratio.pow(1 / self.rho) - low) / (high - low)).clamp(0, 1)


@dataclass(frozen=True)
class Discrete(Path):
    """A table of ``alphas_cumprod``, as diffusers' schedulers have: their timestep is ``t T - 1``, so t = 1 / T is
    their 0.

    Between the entries the angle ``atan(sigma / alpha)`` is interpolated; at t = 0 there is no noise.
    """

    unit: ClassVar[bool] = True
    alphas_cumprod: tuple[float, ...]

    @cached_property
    def _angles(self) -> Tensor:
        table = torch.tensor(self.alphas_cumprod, dtype=torch.float64)
        return torch.cat([torch.zeros(1), torch.acos(table.sqrt()).float()])

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The angle at t, and its slope."""
        angles, last = self._angles.to(t.device), len(self.alphas_cumprod)
        place = t * last
        low = place.detach().floor().long().clamp(0, last - 1)
        slope = angles[low + 1] - angles[low]
        return angles[low] + (place - low) * slope, slope * last

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(self._at(t)[0])

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(self._at(t)[0])

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        angle, slope = self._at(t)
        return -torch.sin(angle) * slope, torch.cos(angle) * slope

    def time(self, ratio: Tensor) -> Tensor:
        angles, last = self._angles.to(ratio.device), len(self.alphas_cumprod)
        angle = torch.atan(ratio)
        low = (torch.searchsorted(angles, angle, right=True) - 1).clamp(0, last - 1)
        return ((low + (angle - angles[low]) / (angles[low + 1] - angles[low])) / last).clamp(0, 1)
