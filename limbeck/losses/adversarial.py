"""Adversarial losses on discriminator logits, element by element; high logits mean "real".

A discriminator adds the loss of the real batch (``real=True``) and of the fake one (``real=False``); a generator that
should look real takes the loss of its fakes with ``real=True`` (for the hinge: ``-logits``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.losses._numeric import wide


def nonsaturating(logits: Tensor, *, real: bool) -> Tensor:
    """``- log sigmoid(l)`` if real else ``- log(1 - sigmoid(l))``, by softplus.

    Goodfellow et al. (2014), https://arxiv.org/abs/1406.2661, with the generator's non-saturating form.
    """
    return F.softplus(-wide(logits) if real else wide(logits))


def hinge(logits: Tensor, *, real: bool) -> Tensor:
    """``max(0, 1 - l)`` if real else ``max(0, 1 + l)``, for the discriminator.

    Lim & Ye (2017), https://arxiv.org/abs/1705.02894.
    """
    return F.relu(1 - wide(logits) if real else 1 + wide(logits))


def least_squares(logits: Tensor, *, real: bool) -> Tensor:
    """``1/2 (l - 1)^2`` if real else ``1/2 l^2`` (Mao et al., 2017), https://arxiv.org/abs/1611.04076."""
    return (wide(logits) - float(real)).square() / 2


def r1_penalty(logits: Tensor, inputs: Tensor) -> Tensor:
    """``||d l / d x||^2`` at real samples, to be weighed by gamma / 2: (B, ...) -> (B,).

    Mescheder et al. (2018), https://arxiv.org/abs/1801.04406.

    Args:
        logits: (B, ...) the discriminator's output at ``inputs``; rows must not depend on each other.
        inputs: (B, ...) with ``requires_grad``.

    Returns:
        (B,), with a graph, so that it can be minimised.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return wide(gradient).flatten(1).square().sum(-1)
