"""The mode in which models are judged."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn

from limbeck.core.modules import eval_mode

__all__ = ["evaluating"]


@contextmanager
def evaluating(*models: nn.Module) -> Generator[None]:
    """Eval mode and no gradients inside; afterwards every submodule is back in the mode it was in."""
    with eval_mode(*models), torch.no_grad():
        yield
