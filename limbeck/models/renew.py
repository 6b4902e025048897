"""A network's weights drawn anew, in place: matching methods look at a fresh network every step."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from limbeck.errors import InputError

__all__ = ["renew"]

M = TypeVar("M", bound=nn.Module)


def renew(net: M) -> M:
    """Draw all weights again as their layers do when they are built, from torch's global generator, and return it.

    Building the network again would cost more than a training step, and its weights would not follow the generator
    that a checkpoint keeps.

    Raises:
        InputError: for a parameter of a module that cannot do so.
    """
    for path, module in net.named_modules():
        again = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(again):
            again()
        elif own := [name for name, _ in module.named_parameters(recurse=False)]:
            kind = type(module).__name__
            raise InputError("student", kind, f"at {path or 'the top'} has {own[0]!r} but no reset_parameters: add one")
    return net
