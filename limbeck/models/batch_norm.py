"""The batch norms of a trained network: where they are, and how to run them on the statistics of the batch itself."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch import nn

from limbeck.errors import InputError

__all__ = ["batch_norms", "batch_statistics"]


def batch_norms(net: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """Those that keep statistics, by their paths, in their order.

    Raises:
        InputError: when there is none.
    """
    found = {
        path: module
        for path, module in net.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    }
    if not found:
        raise InputError("teacher", type(net).__name__, "has no batch norm, whose statistics the images are to match; "
                         "take a network with some, such as cnn-16-32 or a ResNet")  # fmt: skip
    return found


@contextmanager
def batch_statistics(net: nn.Module) -> Generator[None]:
    """Inside, batch norms normalise by the batch's own mean and variance; what they have kept stays as it is, and all
    else (dropout) is in the mode it was in."""
    norms = list(batch_norms(net).values())
    modes = [(m.training, m.track_running_stats) for m in norms]
    try:
        for m in norms:
            m.training, m.track_running_stats = True, False  # without tracking nothing is counted, nothing is kept
        yield
    finally:
        for m, (training, tracking) in zip(norms, modes, strict=True):
            m.training, m.track_running_stats = training, tracking
