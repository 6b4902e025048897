"""Augmentations by name, drawn per sample by kornia from torch's global generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limbeck.errors import InputError, nearest

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NAMES", "Augmentation", "augmentation"]

Shape = tuple[int, int, int]


def _flip(shape: Shape, same: bool) -> nn.Module:
    from kornia.augmentation import RandomHorizontalFlip

    return RandomHorizontalFlip(p=0.5, same_on_batch=same)


def _crop(shape: Shape, same: bool) -> nn.Module:
    from kornia.augmentation import RandomCrop

    pad = (max(1, shape[2] // 8), max(1, shape[1] // 8))  # 4 pixels of 32, as in He et al. 2015, section 4.2
    return RandomCrop(shape[1:], padding=(pad[0], pad[1], pad[0], pad[1]), same_on_batch=same)


def _shift(shape: Shape, same: bool) -> nn.Module:
    from kornia.augmentation import RandomAffine

    return RandomAffine(degrees=0.0, translate=(0.1, 0.1), padding_mode="border", p=1.0, same_on_batch=same)


def _rotate(shape: Shape, same: bool) -> nn.Module:
    from kornia.augmentation import RandomAffine

    return RandomAffine(degrees=15.0, padding_mode="border", p=1.0, same_on_batch=same)


def _colour(shape: Shape, same: bool) -> nn.Module:
    from kornia.augmentation import ColorJiggle

    if shape[0] != 3:
        raise InputError("augment", "colour", f"needs images of 3 channels, not {shape[0]}")
    return ColorJiggle(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=1.0, same_on_batch=same)


def _erase(shape: Shape, same: bool) -> nn.Module:
    from kornia.augmentation import RandomErasing

    return RandomErasing(p=0.5, same_on_batch=same)


_MAKERS: dict[str, Callable[[Shape, bool], nn.Module]] = {
    "flip": _flip, "crop": _crop, "shift": _shift, "rotate": _rotate, "colour": _colour, "erase": _erase,
}  # fmt: skip
_ALIASES = {"cifar": "crop+flip", "none": ""}
NAMES = (*_MAKERS, *_ALIASES)
WHOLE = ("forward_input_shape", "order")  # of what kornia draws: all images have these in common


class Augmentation:
    """Kornia's augmentations one after the other, for images of one shape: a function of (B, C, H, W).

    Args:
        chain: of them; none for images as they are.
        shape: (C, H, W).
    """

    def __init__(self, chain: Sequence[Any], shape: Shape) -> None:
        self.chain, self.shape = chain, shape

    def __call__(self, x: Tensor) -> Tensor:
        for step in self.chain:
            x = step(x)
        return x

    def draw(self, count: int) -> Callable[[Tensor, slice], Tensor]:
        """The draws for ``count`` images, as a call with all of them makes them: a function that augments those of a
        slice of them alike whenever it is called."""
        drawn = [step.forward_parameters(torch.Size((count, *self.shape))) for step in self.chain]

        def apply(x: Tensor, rows: slice) -> Tensor:
            for step, of_all in zip(self.chain, drawn, strict=True):
                x = step(x, params={name: each if name in WHOLE else each[rows] for name, each in of_all.items()})
            return x

        return apply


def augmentation(names: str, shape: Shape, same: bool = False) -> Augmentation | None:
    """The augmentation that ``"crop+flip"`` names, for images of one shape; ``None`` for ``"none"``.

    Args:
        names: joined by ``+`` and applied in that order: ``flip`` (horizontal, p 0.5), ``crop`` (from an image padded
            by an eighth of its size), ``shift`` (by up to a tenth), ``rotate`` (by up to 15 degrees), ``colour``
            (brightness, contrast, saturation 0.4, hue 0.1), ``erase`` (one rectangle, p 0.5), ``cifar`` (crop+flip),
            ``none``.
        shape: (C, H, W).
        same: one draw for all samples of a batch.

    Returns:
        A function of (B, C, H, W) in [0, 1]; each sample gets a draw of its own, but for ``same``.

    Raises:
        InputError: with the nearest name when one is unknown.
    """
    chain: list[nn.Module] = []
    for name in "+".join(_ALIASES.get(part.strip(), part) for part in names.split("+")).split("+"):
        name = name.strip()
        if name and name not in _MAKERS:
            raise InputError("augment", name, "is no augmentation" + nearest(name, NAMES))
        if name:
            chain.append(_MAKERS[name](shape, same))

    return Augmentation(chain, shape) if chain else None
