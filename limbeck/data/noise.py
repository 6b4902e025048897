"""Known damage to a data set, for experiments that need it: wrong labels, shifted images, other sizes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional as F

from limbeck.data.images import ImageSet
from limbeck.errors import InputError

__all__ = ["limit", "resized", "shifted", "with_label_noise"]


def with_label_noise(data: ImageSet, fraction: float, seed: int = 0) -> ImageSet:
    """Symmetric noise: exactly ``round(fraction * N)`` labels become one of the *other* classes, evenly.

    So ``fraction`` of the labels is wrong; where a source draws the new label from all K classes with probability p,
    that is ``fraction = p (K - 1) / K``.

    Raises:
        InputError: for a fraction outside [0, 1] or fewer than two classes.
    """
    if not 0.0 <= fraction <= 1.0 or len(data.classes) < 2:
        raise InputError(
            "label noise", fraction, f"must be in [0, 1], with 2 or more classes ({len(data.classes)} here)"
        )
    drawn = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(data), generator=drawn)[: round(fraction * len(data))]
    away = torch.randint(1, len(data.classes), (len(rows),), generator=drawn)  # 1..K-1 steps away: never the same class
    labels = data.labels.clone()
    known = labels[rows] >= 0
    labels[rows[known]] = (labels[rows] + away)[known] % len(data.classes)
    return replace(data, labels=labels, name=f"{data.name} with {fraction:g} label noise")


def limit(data: ImageSet, count: int, seed: int = 0) -> ImageSet:
    """At most ``count`` images, every class in its proportion (see :meth:`ImageSet.limited`)."""
    return data.limited(count=count, seed=seed)


def shifted(data: ImageSet, pixels: int, seed: int = 0) -> ImageSet:
    """Every image moved by its own whole number of pixels, up to ``pixels`` each way, with black coming in."""
    if pixels < 0 or pixels >= min(data.shape[1:]):
        raise InputError("shift", pixels, f"must be from 0 to {min(data.shape[1:]) - 1} pixels")
    moves = torch.randint(0, 2 * pixels + 1, (len(data), 2), generator=torch.Generator().manual_seed(seed))
    (_, height, width), padded = data.shape, F.pad(data.images, [pixels] * 4)
    moved = [p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, moves.tolist(), strict=True)]
    return replace(data, images=torch.stack(moved), name=f"{data.name} shifted by {pixels}")


def resized(data: ImageSet, size: int | tuple[int, int]) -> ImageSet:
    """The images at another (height, width), bilinear with antialiasing; a single number is a square."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise InputError("size", f"{height}x{width}", "must be at least 1x1")
    if (height, width) == data.shape[1:]:
        return data
    whole = data.images.dtype == torch.uint8
    images = F.interpolate(data.images.float(), (height, width), mode="bilinear", antialias=True, align_corners=False)
    images = images.round().clamp(0, 255).to(torch.uint8) if whole else images.clamp(0, 1)
    return replace(data, images=images)
