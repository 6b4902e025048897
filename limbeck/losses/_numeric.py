"""What every loss needs: precision, safe norms, shapes that must agree."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.errors import InputError


def wide(x: Tensor) -> Tensor:
    """``x`` in float32 at least: float32 and float64 stay, everything else becomes float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` in the precision of its inputs: autocast would round float32 factors to half precision."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def unit(x: Tensor) -> Tensor:
    """``x / ||x||`` over the last axis; a zero vector stays zero and gets no gradient."""
    norm = x.square().sum(-1, keepdim=True)
    zero = norm == 0
    return (x * norm.masked_fill(zero, 1).rsqrt()).masked_fill(zero, 0)


def trailing(value: float | Tensor) -> float | Tensor:
    """A per-sample weight ready to multiply ``(..., K)``: a tensor gains a last axis, a number stays."""
    return value.unsqueeze(-1) if isinstance(value, Tensor) and value.ndim else value


def same_shape(a: Tensor, b: Tensor) -> None:
    """Refuse what would silently broadcast."""
    if a.shape != b.shape:
        raise InputError("shapes", f"{tuple(a.shape)} and {tuple(b.shape)}", "must be the same")


def same_batch(a: Tensor, b: Tensor) -> None:
    """Refuse two batches of different length."""
    if len(a) != len(b):
        raise InputError("shapes", f"{tuple(a.shape)} and {tuple(b.shape)}", "must have the same batch size")
