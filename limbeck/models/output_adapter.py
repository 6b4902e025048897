"""Adapters that add a vector to the output of a frozen network's blocks, told the time, the label and one further
number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck.core.modules import Taps
from limbeck.models.denoiser import Denoiser
from limbeck.models.tiny_denoiser import WAVES, waves

__all__ = ["OutputAdapters", "blocks_of"]


def blocks_of(net: nn.Module) -> list[str]:
    """The attention blocks of a network by their paths; without any, the blocks beside the middle one."""
    found = [name for name, module in net.named_modules() if type(module).__name__ == "Attention"]
    if found:
        return found
    parent = str(net.middle).rpartition(".")[0]
    return [f"{parent}.{name}" for name, _ in net.get_submodule(parent).named_children()]


class OutputAdapters(nn.Module):
    """``h = Block(h) + MLP(E_w(w) + E_t(t) + E_c(c))``, the same vector for every token or pixel; zero at first.

    Args:
        model: whose network is wrapped and frozen; its weights are shared, not copied.
        hidden: width of the embeddings and of the adapters.
        blocks: paths of the blocks below the network.
    """

    def __init__(self, model: Denoiser, hidden: int, blocks: Sequence[str]) -> None:
        super().__init__()
        self.net, self.blocks, self.hidden, self.extras = model.net, list(blocks), hidden, 1
        self.middle = f"net.{model.net.middle}"
        x = torch.zeros(2, *model.shape).to(next(model.parameters()))
        shapes = Taps(*(f"net.{path}" for path in self.blocks)).shapes(model, x, torch.full((2,), 0.5))
        widths = [shape[0] if len(shape) == 3 else shape[-1] for shape in shapes]
        self.time, self.scale = nn.Linear(1 + 2 * WAVES, hidden), nn.Linear(1 + 2 * WAVES, hidden)
        self.label = nn.Embedding(len(model.classes) + 1, hidden)
        self.adapters = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, width)) for width in widths
        )
        for adapter in self.adapters:
            nn.init.zeros_(adapter[-1].weight)  # the released additive adapter leaves its bias as it is
            nn.init.zeros_(adapter[-1].bias)
        self.net.requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, extra: Tensor) -> Tensor:
        told = self.time(waves(t[:, None])) + self.scale(waves(extra[:, :1])) + self.label(y)
        handles = []
        try:
            for path, adapter in zip(self.blocks, self.adapters, strict=True):
                handles.append(self.net.get_submodule(path).register_forward_hook(_adding(adapter(told))))
            return self.net(x, t, y, None)
        finally:
            for handle in handles:
                handle.remove()


def _adding(vector: Tensor):
    def hook(_: nn.Module, inputs: object, output: Tensor) -> Tensor:
        if output.ndim == 3:
            return output + vector[:, None]
        return output + vector.reshape(*vector.shape, *[1] * (output.ndim - 2))

    return hook
