"""f-divergences of a teacher q from a generator p, as weights of score differences by the density ratio ``r = q / p``.

    D_f(q || p) = E_p f(r),    h(r) = r^2 f''(r)

The gradient of D_f between two noised distributions is ``-E h(r) (s_q - s_p) dx`` (Xu et al., 2025,
https://arxiv.org/abs/2502.15681); that of its expansion over the noise, ``1/2 int g^2 E h(r) ||s_q - s_p||^2 dt``,
has h, r h' and r^2 h'' (Wang et al., 2025, https://arxiv.org/abs/2505.20755).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from limbeck.losses._numeric import wide

__all__ = ["Divergence", "Weights", "density_ratio", "weights"]

Divergence = Literal[
    "reverse_kl", "softened_reverse_kl", "jensen_shannon", "hellinger", "forward_kl", "jeffreys", "chi_squared",
    "neyman",
]  # fmt: skip


class Weights(NamedTuple):
    """``h(r)``, ``r h'(r)`` and ``r^2 h''(r)``, in the shape of r."""

    h: Tensor
    slope: Tensor
    curvature: Tensor


def weights(divergence: Divergence, r: Tensor) -> Weights:
    """The weights of a divergence, up to a constant factor, at ratios r of any shape, above 0.

    Reverse: ``KL(p || q)``, mode seeking, h = 1. Forward: ``KL(q || p)``, covering, h = r. Jensen-Shannon is bounded
    between the two: r / (1 + r). Squared Hellinger sqrt(r), softened reverse 1 / (1 + r), Jeffreys 1 + r, chi-squared
    ``E_p (r - 1)^2`` 2 r^2, Neyman's 1 / r.
    """
    r = wide(r)
    one, none = torch.ones_like(r), torch.zeros_like(r)
    match divergence:
        case "reverse_kl":
            return Weights(one, none, none)
        case "softened_reverse_kl":
            return Weights(1 / (1 + r), -r / (1 + r) ** 2, 2 * r**2 / (1 + r) ** 3)
        case "jensen_shannon":
            return Weights(r / (1 + r), r / (1 + r) ** 2, -2 * r**2 / (1 + r) ** 3)
        case "hellinger":
            return Weights(r.sqrt(), r.sqrt() / 2, -r.sqrt() / 4)
        case "forward_kl":
            return Weights(r, r, none)
        case "jeffreys":
            return Weights(1 + r, r, none)
        case "chi_squared":
            return Weights(2 * r**2, 4 * r**2, 4 * r**2)
        case "neyman":
            return Weights(1 / r, -1 / r, 2 / r)


def density_ratio(logits: Tensor, least: float = 0.1, most: float = 20.0) -> Tensor:
    """``q / p`` from a discriminator's logits, high for q, without gradient; kept between two ends."""
    return wide(logits).detach().clamp(-10, 10).exp().clamp(least, most)
