"""Score differences as losses: how the gap between a teacher's and a critic's denoised samples moves a generator.

``real`` and ``fake`` are the clean samples (B, ...) that the teacher and the critic see in the same noised student
sample
``x_t``. In this form the gap points from where the teacher sees the sample to where the critic does, so that *minus*
the gap leads towards the teacher's distribution. A wrong sign diverges without a word.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.losses._numeric import wide

__all__ = ["along", "distance", "fisher", "follow", "pseudo_huber"]


def distance(x: Tensor, real: Tensor, floor: float = 1e-6) -> Tensor:
    """``max(mean |x - real|, floor)`` a sample, (B, 1, ...), without gradient: DMD's normaliser."""
    apart = (wide(x) - wide(real)).detach().abs().flatten(1).mean(1).clamp(min=floor)
    return apart.reshape(-1, *[1] * (x.ndim - 1))


def follow(x: Tensor, gap: Tensor) -> Tensor:
    """``1/2 mean ||x - sg(x - gap)||^2`` a sample, (B,): its gradient is ``gap`` over the number of elements.

    The surrogate of variational score distillation and distribution matching (Wang et al., 2023,
    https://arxiv.org/abs/2305.16213; Yin et al., 2024, https://arxiv.org/abs/2311.18828). What is not finite is 0.
    """
    target = (wide(x) - torch.nan_to_num(wide(gap), 0.0, 0.0, 0.0)).detach()
    return (wide(x) - target).square().flatten(1).mean(1) / 2


def fisher(x: Tensor, real: Tensor, fake: Tensor, alpha: float = 1.0) -> Tensor:
    """``sum (real - fake) ((real - x) - alpha (real - fake))`` a sample, (B,), with the gradient through all of it.

    The projected Fisher divergence of SiD (Zhou et al., 2024, https://arxiv.org/abs/2404.04057, equation 23):
    ``real`` and
    ``fake`` must carry the graph to their input. At ``alpha`` 1 it is ``(real - fake) (fake - x)``, score implicit
    matching with a squared distance.
    """
    x, real, fake = wide(x), wide(real), wide(fake)
    gap = real - fake
    return (gap * ((real - x) - alpha * gap)).flatten(1).sum(1)


def along(gap: Tensor, direction: Tensor) -> Tensor:
    """``sum gap direction`` a sample, (B,), where ``gap`` is taken as given: moves along it by ``direction``'s
    gradient."""
    return (wide(gap).detach() * wide(direction)).flatten(1).sum(1)


def pseudo_huber(a: Tensor, b: Tensor, c: float) -> Tensor:
    """``mean(sqrt((a - b)^2 + c^2) - c)`` a sample, (B,): squared near zero, absolute far away (Charbonnier et al.,
    1997; for consistency models Song & Dhariwal, 2024, https://arxiv.org/abs/2310.14189)."""
    return ((wide(a) - wide(b)).square().add(c * c).sqrt() - c).flatten(1).mean(1)
