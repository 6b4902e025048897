"""The generative equilibrium transformer: noise to a sample in one call, by the same few blocks again and again.

Geng, Pokle & Kolter (2023), https://arxiv.org/abs/2401.08639:

    u = W Inj(patches of the noise),    z_{k+1} = f(z_k, u, y),    sample = decoded z_K

Inj is a plain transformer; f is a stack of blocks whose queries, keys and values have u added, and which a label
modulates. The weights of f serve every iteration: more of them cost time, not size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from limbeck.errors import InputError
from limbeck.models.denoiser import Denoiser
from limbeck.models.path import Flow, Path
from limbeck.models.sampling import FewStep

__all__ = ["Equilibrium", "equilibrium"]


class Block(nn.Module):
    """A transformer block whose queries, keys and values may be injected, and whose norms a condition may move.

    Args:
        width: of tokens; a multiple of ``heads``.
        heads: of attention.
        modulated: whether :meth:`forward` is given a condition (B, width).
    """

    def __init__(self, width: int, heads: int, modulated: bool) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = (nn.LayerNorm(width, elementwise_affine=not modulated) for _ in range(2))
        self.enter, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.move = nn.Linear(width, 4 * width) if modulated else None

    def forward(self, z: Tensor, inject: Tensor | float = 0.0, told: Tensor | None = None) -> Tensor:
        """(B, T, width) to the same; ``inject`` is (B, T, 3 width)."""
        moves = self.move(told)[:, None].chunk(4, -1) if self.move is not None else (0.0,) * 4
        q, k, v = (self.enter(self.first(z) * (1 + moves[0]) + moves[1]) + inject).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        seen = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        z = z + self.leave(seen)
        return z + self.wide(self.second(z) * (1 + moves[2]) + moves[3])


class Equilibrium(nn.Module):
    """As a network of a :class:`Denoiser` it answers ``x0`` of pure noise; the time it is asked at is not looked at.

    The iteration begins with normal noise in training and with zeros in eval mode, so that samples are a function of
    their noise.

    Args:
        shape: of a sample: (C, H, W), in patches, or (D,), which is one token.
        width, heads: of tokens.
        classes: how many; 0 for none. There is one embedding more, the null label's.
        patch: side of a patch; it must divide H and W.
        injection, blocks: how many blocks in Inj, and in f.
        iterations: K.
        recompute: run the blocks of f again in the backward pass rather than keep what is inside them.

    Raises:
        InputError: for a patch that does not divide the image.
    """

    def __init__(  # noqa: PLR0917 (an architecture's sizes)
        self, shape: Sequence[int], width: int = 64, heads: int = 4, classes: int = 0, patch: int = 2,
        injection: int = 1, blocks: int = 1, iterations: int = 6, recompute: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shape, self.patch, self.iterations, self.recompute = tuple(shape), patch, iterations, recompute
        self.sizes = {
            "width": width, "heads": heads, "patch": patch, "injection": injection, "blocks": blocks,
            "iterations": iterations, "recompute": recompute,
        }  # fmt: skip
        if len(shape) == 3 and (shape[1] % patch or shape[2] % patch):
            raise InputError("patch", patch, f"does not divide images of {shape[1]} x {shape[2]}")
        tokens = shape[1] * shape[2] // patch**2 if len(shape) == 3 else 1
        inside = math.prod(shape) // tokens
        self.enter, self.place = nn.Linear(inside, width), nn.Parameter(0.02 * torch.randn(tokens, width))
        self.injection = nn.ModuleList(Block(width, heads, False) for _ in range(injection))
        self.inject = nn.Linear(width, 3 * width * blocks)
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.blocks = nn.ModuleList(Block(width, heads, bool(classes)) for _ in range(blocks))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, inside)
        for block in (*self.injection, *self.blocks):
            if block.move is not None:
                nn.init.zeros_(block.move.weight)
                nn.init.zeros_(block.move.bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        return self.iterates(x, y)[-1]

    def iterates(self, x: Tensor, y: Tensor | None = None, count: int | None = None) -> list[Tensor]:
        """The decoded samples (B, *shape) of the first ``count`` iterates, by default all K."""
        u = self.enter(self.split(x)) + self.place
        for block in self.injection:
            u = block(u)
        parts = self.inject(u).chunk(len(self.blocks), -1)
        told = self.label(y) if self.label is not None else None
        z, made = torch.randn_like(u) if self.training else torch.zeros_like(u), []
        for _ in range(self.iterations if count is None else count):
            for block, part in zip(self.blocks, parts):
                z = checkpoint(block, z, part, told, use_reentrant=False) if self.recompute else block(z, part, told)
            made.append(self.join(self.leave(self.norm(z))))
        return made

    def split(self, x: Tensor) -> Tensor:
        """(B, *shape) to tokens (B, T, values of one)."""
        if len(self.shape) != 3:
            return x.flatten(1)[:, None]
        return functional.unfold(x, self.patch, stride=self.patch).transpose(1, 2)

    def join(self, tokens: Tensor) -> Tensor:
        """The reverse of :meth:`split`."""
        if len(self.shape) != 3:
            return tokens[:, 0].unflatten(1, self.shape)
        return functional.fold(tokens.transpose(1, 2), self.shape[1:], self.patch, stride=self.patch)


def equilibrium(
    shape: Sequence[int], classes: int | Sequence[str] = 0, *, path: Path | None = None, width: int = 64,
    heads: int = 4, patch: int = 2, injection: int = 1, blocks: int = 1, iterations: int = 6, recompute: bool = False,
) -> Denoiser:  # fmt: skip
    """A fresh one-step model of samples of this shape."""
    count = classes if isinstance(classes, int) else len(classes)
    net = Equilibrium(shape, width, heads, count, patch, injection, blocks, iterations, recompute)
    return Denoiser(net, shape=shape, path=path or Flow(), prediction="x0", classes=classes, sampler=FewStep((1.0,)))
