"""Fewer bits: the forward pass sees rounded weights, the gradient goes to the weights before rounding.

    W_q[c] = s_c round(W[c] / s_c),  s_c = max |W[c]| / (2^(b-1) - 1)       (symmetric, a scale an output channel)
    dL/dW = dL/dW_q                                                          (straight-through)

Jacob et al. (2018), https://arxiv.org/abs/1712.05877; the straight-through estimator of Bengio et al. (2013),
https://arxiv.org/abs/1308.3432. Activations, embeddings, norms and the head keep their precision. No integer kernel is
used: this says what int8 or int4 weights would say.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck.errors import InputError
from limbeck.models.causal_lm import CausalLM
from limbeck.models.surgery._anatomy import linears, plain, turned

__all__ = ["Rounded", "quantise", "rounded", "settle"]


def rounded(weight: Tensor, bits: int, axis: int = 0) -> Tensor:
    """W_q: at most ``2^bits - 1`` values in each slice along ``axis``; a slice of zeros stays so."""
    largest = weight.abs().amax(dim=1 - axis, keepdim=True).float()
    step = (largest / (2 ** (bits - 1) - 1)).clamp_min(torch.finfo(torch.float32).tiny)
    return ((weight.float() / step).round() * step).to(weight.dtype)


class Rounded(nn.Module):
    """A parametrization: rounded weights, whose gradient goes straight through."""

    def __init__(self, bits: int, axis: int) -> None:
        super().__init__()
        self.bits, self.axis = bits, axis

    def forward(self, weight: Tensor) -> Tensor:
        return rounded(weight.detach(), self.bits, self.axis) + (weight - weight.detach())  # the bracket is zero


def quantise(model: CausalLM, bits: int) -> CausalLM:
    """Put rounding before every linear layer in the blocks, in place; ``settle`` ends it.

    Args:
        model: without an adapter.
        bits: of a weight, 2 to 8.

    Raises:
        InputError: for other numbers of bits, and for a model that is quantised already.
    """
    if not 2 <= bits <= 8:
        raise InputError("bits", bits, "must be from 2 to 8")
    plain(model)
    for path, layer in list(linears(model)):
        if parametrize.is_parametrized(layer):
            raise InputError("model", path, "is quantised already; settle it first")
        parametrize.register_parametrization(layer, "weight", Rounded(bits, int(turned(layer))))
    return model


def settle(model: CausalLM) -> CausalLM:
    """Leave the rounded weights in place of those they were made from, in place: the network can be saved as it is."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    return model
