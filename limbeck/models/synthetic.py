"""A small set of images that stands for a large one: learnable pixels, labels and step sizes, and what they cost to
keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.data.images import ImageSet
from limbeck.errors import InputError
from limbeck.models.use import Descent, Use

__all__ = ["Budget", "Plain", "Shared", "SyntheticSet", "Tiled", "initial", "used_like"]


class Budget(NamedTuple):
    """What a distilled set costs to keep, so that sets with soft labels or shared parts are compared fairly.

    Args:
        images: how many are stored.
        pixels: numbers stored for images, shared perturbations included.
        labels: numbers stored for labels: one an image for hard ones, K for soft ones, and what a projector of labels
            keeps beside its encoder.
        rates: numbers stored for step sizes.
    """

    images: int
    pixels: int
    labels: int
    rates: int

    @property
    def total(self) -> int:
        """All numbers."""
        return self.pixels + self.labels + self.rates


class Plain(nn.Module):
    """Every image is its own pixels, (N, C, H, W) in [0, 1]."""

    def __init__(self, pixels: Tensor) -> None:
        super().__init__()
        self.pixels = nn.Parameter(pixels.clone())

    @property
    def stored(self) -> tuple[int, int]:
        """Images and numbers that are stored."""
        return len(self.pixels), self.pixels.numel()

    def repeats(self) -> int:
        """Decoded images for one stored image."""
        return 1

    def forward(self) -> Tensor:
        return self.pixels


class Tiled(Plain):
    """Every stored image is a square of f x f smaller ones, each enlarged to the full size: f^2 images for the
    price of one.

    The multi-formation of IDC (Kim et al., 2022, https://arxiv.org/abs/2205.14959).

    Args:
        pixels: (N, C, H, W), whose height and width f divides.
        factor: f.
    """

    def __init__(self, pixels: Tensor, factor: int) -> None:
        super().__init__(pixels)
        height, width = pixels.shape[2:]
        if factor < 1 or height % factor or width % factor:
            raise InputError("factor", factor, f"must divide the images' height {height} and width {width}")
        self.factor = factor

    def repeats(self) -> int:
        return self.factor**2

    def forward(self) -> Tensor:
        n, c, height, width = self.pixels.shape
        f = self.factor
        parts = self.pixels.reshape(n, c, f, height // f, f, width // f).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        return F.interpolate(parts, (height, width), mode="bilinear", align_corners=False)


class Shared(nn.Module):
    """Base images, and the same again with each of M patterns that all classes share: M + 1 images for each.

    The inter-class feature compensator (Zhang et al., 2024, https://arxiv.org/abs/2408.06927). The bases stay as
    they are.

    Args:
        base: (N, C, H, W) in [0, 1], one of every class; or (K, B, C, H, W), B of every class: each of the B has its
        own M patterns then.
        patterns: M, all zero at first.
    """

    base: Tensor

    def __init__(self, base: Tensor, patterns: int) -> None:
        super().__init__()
        self.register_buffer("base", base.clone() if base.ndim == 5 else base[:, None].clone())
        self.patterns = nn.Parameter(torch.zeros(patterns, *self.base.shape[1:]))

    @property
    def stored(self) -> tuple[int, int]:
        return self.base.shape[0] * self.base.shape[1], self.base.numel() + self.patterns.numel()

    def repeats(self) -> int:
        return len(self.patterns) + 1

    def forward(self) -> Tensor:
        added = torch.cat([torch.zeros_like(self.patterns[:1]), self.patterns]).transpose(0, 1)  # (B, M + 1, ...)
        return (self.base[:, :, None] + added).flatten(0, 2)


class SyntheticSet(nn.Module):
    """Images to learn, with their labels.

    Args:
        images: a module that decodes to (N, C, H, W): :class:`Plain`, :class:`Tiled` or :class:`Shared`.
        y: (S,) int64, the class of every *stored* image.
        classes: the classes' names.
        targets: (N, K) or (N, D): learnable continuous labels of the *decoded* images, logits or features; none for
        hard ones.
        rates: learnable positive step sizes that training on the set uses; none for the trainer's own.
        use: how networks are trained on it.
        name: what messages and reports call it.

    Raises:
        InputError: naming what does not fit.
    """

    stored_y: Tensor

    def __init__(
        self, images: Plain | Shared, y: Tensor, classes: Sequence[str], *, targets: Tensor | None = None,
        rates: Sequence[float] = (), use: Use | None = None, name: str = "distilled",
    ) -> None:  # fmt: skip
        super().__init__()
        self.images, self.classes, self.name = images, tuple(classes), name
        self.use: Use = use or Descent()
        stored = images.stored[0]
        if y.shape != (stored,) or y.dtype != torch.int64 or int(y.min()) < 0 or int(y.max()) >= len(self.classes):
            raise InputError(name, f"{y.dtype} {list(y.shape)}", f"are the labels; {stored} rows of a class are needed")
        if targets is not None and len(targets) != stored * images.repeats():
            raise InputError(name, len(targets), f"labels were given; there are {stored * images.repeats()} images")
        if any(rate <= 0 for rate in rates):
            raise InputError("rates", min(rates), "is a step size; it must be greater than 0")
        self.register_buffer("stored_y", y)
        self.targets = None if targets is None else nn.Parameter(targets.clone())
        self.raw_rates = nn.Parameter(torch.tensor(list(rates)).expm1().log()) if rates else None

    def __len__(self) -> int:
        return self.images.stored[0] * self.images.repeats()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return tuple(self().shape[1:])

    @property
    def y(self) -> Tensor:
        """(N,) int64, the class of every decoded image."""
        return self.stored_y.repeat_interleave(self.images.repeats())

    @property
    def rates(self) -> Tensor | None:
        """The step sizes, (R,), positive."""
        return None if self.raw_rates is None else F.softplus(self.raw_rates)

    def forward(self) -> Tensor:
        """All images, decoded, (N, C, H, W); in [0, 1] but for what learning does to them."""
        return self.images()

    def of_class(self, number: int) -> Tensor:
        """The rows of a class."""
        return (self.y == number).nonzero().squeeze(1)

    @property
    def budget(self) -> Budget:
        """What it costs to keep."""
        images, pixels = self.images.stored
        labels = images if self.targets is None else self.targets.numel()
        labels += getattr(self.use, "stored", 0)
        return Budget(images, pixels, labels, 0 if self.raw_rates is None else self.raw_rates.numel())

    @torch.no_grad()
    def exported(self) -> ImageSet:
        """A plain set of images in [0, 1] with the classes they were made for; what is out of range is cut off."""
        return ImageSet(self().detach().float().cpu().clamp(0, 1), self.y.cpu(), self.classes, self.name)


def initial(
    data: ImageSet, per_class: int, *, how: str = "real", factor: int = 1, seed: int = 0, rates: Sequence[float] = (),
    use: Use | None = None,
) -> SyntheticSet:  # fmt: skip
    """A set to begin with.

    Args:
        data: the real images.
        per_class: stored images a class.
        how: ``real``, random images of the class; ``noise``, uniform.
        factor: f of :class:`Tiled`; 1 for plain pixels. Tiles begin as f^2 real images made small.
        seed: of the choice.
        rates, use: see :class:`SyntheticSet`.

    Raises:
        InputError: for more images a class than there are.
    """
    counts = torch.bincount(data.labels[data.labels >= 0], minlength=len(data.classes))
    needed = per_class * factor**2
    if per_class < 1 or (how == "real" and needed > int(counts.min())):
        least = int(counts.argmin())
        raise InputError(
            "per_class", per_class, f"needs {needed} images a class; {data.classes[least]} has {counts[least]}"
        )
    drawn = torch.Generator().manual_seed(seed)
    y = torch.arange(len(data.classes)).repeat_interleave(per_class)
    if how == "noise":
        pixels = torch.rand(len(y), *data.shape, generator=drawn)
    else:
        rows = []
        for k in range(len(data.classes)):
            own = (data.labels == k).nonzero().squeeze(1)
            rows.append(own[torch.randperm(len(own), generator=drawn)[:needed]])
        pixels, _ = data.take(torch.cat(rows))
        if factor > 1:
            c, height, width = data.shape
            small = F.interpolate(pixels, (height // factor, width // factor), mode="bilinear", align_corners=False)
            grid = small.reshape(len(y), factor, factor, c, height // factor, width // factor)
            pixels = grid.permute(0, 3, 1, 4, 2, 5).reshape(len(y), c, height, width)
    images = Tiled(pixels, factor) if factor > 1 else Plain(pixels)
    return SyntheticSet(images, y, data.classes, rates=rates, use=use, name=f"distilled {data.name}")


def used_like(like: SyntheticSet, images: SyntheticSet, targets: Tensor | None = None) -> SyntheticSet:
    """One set's images with another's step sizes and use, and perhaps targets made as the other's are: what these are
    worth is not credited to the images."""
    rates = () if like.rates is None else like.rates.detach().tolist()
    return SyntheticSet(
        images.images, images.stored_y, images.classes, targets=targets, rates=rates, use=like.use, name=images.name
    )  # fmt: skip
