"""Self-distillation in closed form, where predictions are linear in the targets (Borup & Andersen, 2021).

https://arxiv.org/abs/2102.13088
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["best_weight", "ridge_generations"]


def ridge_generations(K: Tensor, y: Tensor, lam: float, weights: Sequence[float]) -> list[Tensor]:
    """Kernel ridge through the generations, exactly: K (N, N), y (N, ...) -> in-sample predictions y_1, y_2, ...

    Args:
        K: the Gram matrix.
        y: targets.
        lam: the ridge lambda > 0 of ``||f(X) - y||^2 + lambda ||f||^2``.
        weights: the predecessor's weight in every generation after the first.
    """
    S = torch.linalg.solve(K + lam * torch.eye(len(K), dtype=K.dtype), K)  # K and its resolvent commute
    fitted = [S @ y]
    for w in weights:
        fitted.append(S @ ((1 - w) * y + w * fitted[-1]))
    return fitted


def best_weight(y: Tensor, first: Tensor, pure: Tensor) -> float:
    """The predecessor's weight w that minimises ``||y - (1 - w) first - w pure||^2``, clipped to [0, 1].

    Args:
        y: held-out targets, any shape.
        first: predictions there of the fit to labels.
        pure: predictions there of the fit to the predecessor alone.
    """
    apart = first - pure
    labels = ((y - pure) * apart).sum() / apart.square().sum().clamp_min(torch.finfo(apart.dtype).tiny)
    return float(1 - labels.clamp(0, 1))
