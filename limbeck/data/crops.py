"""Random resized crops and shifts of whole batches: the gradient passes, the bound on the area may move, and a draw may
be shared, by the images of a group or by images that are joined along their channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import InputError

__all__ = ["resized_crop", "rolled"]

TRIES = 10  # draws of a shape before the whole image is taken, as in torchvision


def resized_crop(
    x: Tensor, lower: float, upper: float = 1.0, *, flip: bool = False, groups: int | None = None
) -> Tensor:
    """A part of every image, enlarged to the image's size by linear interpolation.

        area ~ U[lower, upper],   log(width / height) ~ U[log 3/4, log 4/3],   the place uniform

    A shape that does not fit is drawn again; where none of ten fits, the whole image is taken, so that ``lower = 1``
    changes nothing. Draws follow torch's global generator.

    Args:
        x: (B, C, H, W). Images of a pair see the same crop when they are joined along C.
        lower, upper: of the area's share, in (0, 1].
        flip: turn half of the crops around, left to right.
        groups: how many draws; each is shared by B / groups consecutive images. One for every image when left out.

    Raises:
        InputError: for bounds that are none.
    """
    if not 0 < lower <= upper <= 1:
        raise InputError("lower", lower, f"must be in (0, {upper:g}]")
    count = len(x) if groups is None else groups
    height, width = x.shape[2:]
    area = lower + (upper - lower) * torch.rand(TRIES, count)
    aspect = (math.log(4 / 3) * (2 * torch.rand(TRIES, count) - 1)).exp()
    w, h = (area * aspect * height / width).sqrt(), (area / aspect * width / height).sqrt()
    fits = (w <= 1) & (h <= 1)
    first = fits.int().argmax(0, keepdim=True)  # of those that fit; the first of all where none does
    w, h = (torch.where(fits.any(0), part.gather(0, first)[0], 1.0) for part in (w, h))
    left, top = (1 - w) * torch.rand(count), (1 - h) * torch.rand(count)
    side = 1 - 2 * (torch.rand(count) < 0.5).float() if flip else torch.ones(count)
    zero = torch.zeros(count)
    theta = torch.stack([side * w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).view(count, 2, 3)
    theta = theta.to(x).repeat_interleave(len(x) // count, 0)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def rolled(x: Tensor, most: int, *, groups: int = 1) -> Tensor:
    """Every group of consecutive images moved down and right by 0 to ``most`` pixels; what leaves comes back in at the
    other side."""
    if most < 1:
        return x
    moves = torch.randint(most + 1, (groups, 2)).tolist()
    return torch.cat([part.roll(move, (2, 3)) for part, move in zip(x.chunk(groups), moves, strict=True)])
