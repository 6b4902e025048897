"""Looks for NaN and infinity in a run's losses, without waiting for the device at every step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["NonFinite", "Watch", "check_weights"]


class NonFinite(RuntimeError):
    """Something became NaN or infinite; the message says where and what to try."""


class _Seen(NamedTuple):
    step: int
    player: str
    scalars: Mapping[str, Tensor]
    total: Tensor


class Watch:
    """Keeps the scalars of some updates and looks at them together.

    Args:
        every: updates between two looks. On a CPU, where looking is free, 1: the diagnosis then comes before the step
            that would spoil the weights.
    """

    def __init__(self, every: int) -> None:
        self.every, self.pending = every, list[_Seen]()

    def see(self, step: int, player: str, scalars: Mapping[str, Tensor], total: Tensor) -> None:
        """Note detached ``scalars``; ``total`` is not finite when one of them is not.

        Raises:
            NonFinite: naming the scalar.
        """
        if self.every == 1:
            if not math.isfinite(total):
                _diagnose(_Seen(step, player, scalars, total))
            return
        self.pending.append(_Seen(step, player, scalars, total))
        if len(self.pending) >= self.every:
            self.look()

    def look(self) -> None:
        """Look at everything that was noted.

        Raises:
            NonFinite: naming the first scalar that is not finite.
        """
        pending, self.pending = self.pending, []
        if pending and not bool(torch.stack([seen.total.float() for seen in pending]).isfinite().all()):
            for seen in pending:
                if not math.isfinite(seen.total):
                    _diagnose(seen)


def _diagnose(seen: _Seen) -> None:
    values = {name: float(scalar) for name, scalar in seen.scalars.items()}
    bad = next((name for name, number in values.items() if not math.isfinite(number)), "the sum")
    said = ", ".join(f"{name} = {number:.4g}" for name, number in values.items())
    raise NonFinite(
        f"step {seen.step}, player {seen.player}: {bad!r} is not finite ({said}). Try a smaller learning rate or a "
        "gradient clip of 1; if it happens at the first step, look for bad inputs or log(0)."
    )


def check_weights(method: nn.Module, step: int) -> None:
    """Keep a spoilt state out of a checkpoint: a finite loss can have gradients that are not.

    Raises:
        NonFinite: naming the parameter.
    """
    for name, p in method.named_parameters():
        if p.requires_grad:
            finite = p.detach().isfinite().all()
            if not bool(getattr(finite, "full_tensor", lambda same=finite: same)()):
                raise NonFinite(
                    f"step {step}: parameter {name!r} is not finite, though the losses were. Look for a gradient of "
                    "sqrt(0), log(0) or x / 0, or try a gradient clip of 1."
                )
