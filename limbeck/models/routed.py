"""Several networks as one: each sample goes to the network that is responsible for its label, or for its time.

A routed network is the ``net`` of a :class:`limbeck.models.denoiser.Denoiser`, so that a collection of experts is
sampled, saved and distilled as one model is; a sample costs one expert.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.models.denoiser import Denoiser

__all__ = ["ByLabel", "ByTime", "routed"]


class Routed(nn.Module):
    """Sends rows to networks; a subclass says where to."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.extras = int(getattr(nets[0], "extras", 0))

    def owner(self, t: Tensor, y: Tensor | None) -> Tensor:
        """(B,) which network a row goes to."""
        raise NotImplementedError

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        owner, made = self.owner(t, y), torch.empty_like(x)
        for k in owner.unique().tolist():
            own = owner == k
            of = [None if part is None else part[own] for part in (y, extra)]
            made = made.index_put((own,), self.nets[k](x[own], t[own], *of).to(made.dtype))
        return made


class ByLabel(Routed):
    """By the label: ``owners[y]``; samples without one go to the first network.

    Args:
        nets: the experts.
        owners: (classes,) int64, the expert of every class.
    """

    def __init__(self, nets: Sequence[nn.Module], owners: Tensor) -> None:
        super().__init__(nets)
        self.register_buffer("owners", torch.cat([owners, owners.new_zeros(1)]))  # the null label is the last

    def owner(self, t: Tensor, y: Tensor | None) -> Tensor:
        return torch.zeros_like(t, dtype=torch.int64) if y is None else self.owners[y]


class ByTime(Routed):
    """By the time: the first network from 1 down to ``ends[0]``, the next from there to ``ends[1]``, and so on to 0.

    Args:
        nets: one more than ``ends``.
        ends: falling times at which the next expert takes over: it is the one that is called there.
    """

    def __init__(self, nets: Sequence[nn.Module], ends: Sequence[float]) -> None:
        super().__init__(nets)
        self.register_buffer("ends", torch.tensor(list(ends), dtype=torch.float32))

    def owner(self, t: Tensor, y: Tensor | None) -> Tensor:
        return (t[:, None] <= self.ends.to(t) + 1e-6).sum(1)


def routed(experts: Sequence[Denoiser], net: Routed) -> Denoiser:
    """The experts as one model, over a routed network made of theirs.

    Raises:
        InputError: where they differ in path, prediction, shape or classes.
    """
    first = experts[0]
    for name in ("path", "prediction", "shape", "classes", "data"):
        for other in experts[1:]:
            if getattr(other, name) != getattr(first, name):
                raise InputError("experts", getattr(other, name), f"is one expert's {name}, another's is different")
    made = Denoiser(
        net, shape=first.shape, path=first.path, prediction=first.prediction, classes=first.classes, data=first.data,
        sampler=first.sampler,
    )  # fmt: skip
    made.reference = first.reference
    return made
