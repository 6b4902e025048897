"""What score distillation moves: the parameters of pictures or scenes, which a renderer turns into samples."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from limbeck.errors import InputError

__all__ = ["Particles", "Picture", "Renderer"]


class Renderer(Protocol):
    """From parameters to samples, differentiably."""

    views: int
    """How many numbers a view has; 0 where all views are the same."""

    def look(self, count: int) -> Tensor | None:
        """Random views (count, views), or ``None``."""
        ...

    def render(self, params: Tensor, view: Tensor | None) -> Tensor:
        """Samples (B, *shape) of parameters (B, ...) seen in views (B, views)."""
        ...


class Picture:
    """The parameters are the sample itself: pixels, latents, or points."""

    views = 0

    def look(self, count: int) -> Tensor | None:
        return None

    def render(self, params: Tensor, view: Tensor | None) -> Tensor:
        return params


class Particles(nn.Module):
    """A few points of the parameter space that stand for a distribution.

    Args:
        params: (N, ...) where they begin.
        y: (N,) int64, what each is to be a sample of; -1 for no label, the default.
        renderer: see :class:`Renderer`.

    Raises:
        InputError: when there are not as many labels as particles.
    """

    y: Tensor

    def __init__(self, params: Tensor, y: Tensor | None = None, renderer: Renderer | None = None) -> None:
        super().__init__()
        self.params = nn.Parameter(params.detach().clone())
        y = torch.full((len(params),), -1) if y is None else y
        if len(y) != len(params):
            raise InputError("y", len(y), f"labels were given for {len(params)} particles; give one each")
        self.register_buffer("y", y)
        self.renderer: Renderer = Picture() if renderer is None else renderer

    def __len__(self) -> int:
        return len(self.params)

    def forward(self, index: Tensor, view: Tensor | None = None) -> Tensor:
        """The rendered particles of these rows (B,), with gradient."""
        return self.renderer.render(self.params[index], view)

    @torch.no_grad()
    def generate(self, noise: Tensor, y: Tensor | None = None, **_: Any) -> Tensor:
        """As many particles as there is noise, in their order and again from the first; each in a random view."""
        index = torch.arange(len(noise), device=self.params.device) % len(self)
        return self(index, self.renderer.look(len(index)))
