"""A frozen encoder with low-rank changes and prototypes of classes, that labels images: a few numbers in the place of
stored soft labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from limbeck.core.modules import freeze
from limbeck.data.crops import resized_crop
from limbeck.errors import InputError
from limbeck.models.classifier import Classifier
from limbeck.models.mixing import Mix, follow, mixed
from limbeck.models.pretraining import embed

if TYPE_CHECKING:
    from limbeck.models.synthetic import SyntheticSet

__all__ = ["Embedding", "ProjectedLabels"]


class Embedding(nn.Module):
    """An encoder's features of images of any size, in one channel or three."""

    def __init__(self, net: Classifier) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = self.net.shape
        if x.shape[1] != channels:
            x = x.mean(1, keepdim=True).expand(-1, channels, -1, -1)
        if x.shape[2:] != (height, width):
            x = F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
        return embed(self.net, x)


class ProjectedLabels(nn.Module):
    """The projector labels the very images that a network sees (Yu et al. 2024, https://arxiv.org/abs/2408.08201).

        W_l <- W_l + B_l A_l  of every layer l of the encoder E,   q(x) = s (W + B_h A_h) E(x) / ||E(x)||
        x~ = mix(crop(x)),   L = KL(softmax(q(x~) / tau) || softmax(f(x~) / tau))

    Args:
        encoder: up to its head; frozen, and not counted in what is stored.
        prototypes: W, (K, D), a row a class.
        rank: r of every B A.
        low_rank: all A and B, one after the other; drawn when left out, with B = 0, so that nothing changes at first.
        scale: s, (1,).
        tau: temperature of labels and network.
        lower: least share of an image that a crop shows.
        flip: turn half of the crops around.
        mix: how two images are mixed.
        steps, rate, batch: of the training (see :func:`limbeck.models.mixing.follow`).

    Raises:
        InputError: for prototypes of another width than the encoder's features.
    """

    prototypes: Tensor

    def __init__(
        self, encoder: Classifier, prototypes: Tensor, *, rank: int = 4, low_rank: Tensor | None = None,
        scale: Tensor | None = None, tau: float = 20.0, lower: float = 0.08, flip: bool = True, mix: Mix = "cutmix",
        steps: int = 300, rate: float = 5e-3, batch: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        self.seen, self.rank = freeze(Embedding(encoder)), rank
        self.register_buffer("prototypes", prototypes)
        features = embed(encoder, encoder.example).shape[1]
        if prototypes.shape[1] != features:
            raise InputError("prototypes", list(prototypes.shape), f"must be (K, {features}), as wide as the features")
        self.changed = {
            f"net.{name}": p.shape
            for name, p in encoder.named_parameters()
            if p.ndim in (2, 4) and not name.startswith(f"{encoder.head}.")
        }
        shapes = [*self.changed.values(), prototypes.shape]
        self.sizes = [n for s in shapes for n in (rank * s[1:].numel(), s[0] * rank)]
        if low_rank is None:
            drawn = [torch.randn(n) / s[1:].numel() ** 0.5 for s, n in zip(shapes, self.sizes[::2], strict=True)]
            zeros = [torch.zeros(n) for n in self.sizes[1::2]]
            low_rank = torch.cat([part for pair in zip(drawn, zeros, strict=True) for part in pair])
        self.low_rank = nn.Parameter(low_rank.to(prototypes.device))
        self.scale = nn.Parameter(torch.full((1,), 20.0, device=prototypes.device) if scale is None else scale)
        self.tau, self.lower, self.flip, self.mix = tau, lower, flip, mix
        self.steps, self.rate, self.batch = steps, rate, batch

    @property
    def encoder(self) -> Classifier:
        """As it was given."""
        return self.seen.net

    @property
    def stored(self) -> int:
        """Numbers kept beside the encoder."""
        return self.low_rank.numel() + self.prototypes.numel() + 1

    def label(self, x: Tensor) -> Tensor:
        """The logits q, (B, K)."""
        parts = self.low_rank.split(self.sizes)
        shapes = [*self.changed.values(), self.prototypes.shape]
        moved = [
            (b.view(s[0], self.rank) @ a.view(self.rank, -1)).view(s)
            for s, a, b in zip(shapes, parts[::2], parts[1::2], strict=True)
        ]
        own = dict(self.seen.named_parameters())
        weights = {name: own[name] + m for name, m in zip(self.changed, moved, strict=False)}
        features = functional_call(self.seen, weights, (x,))
        return self.scale * F.normalize(features, dim=1) @ (self.prototypes + moved[-1]).T

    def __call__(self, net: nn.Module, made: SyntheticSet) -> None:
        x = made().detach().clamp(0, 1)

        @torch.no_grad()
        def seen(rows: Tensor) -> tuple[Tensor, Tensor]:
            images = mixed(resized_crop(x[rows], self.lower, flip=self.flip), self.mix)[0]
            return images, self.label(images)

        follow(net, x, seen, steps=self.steps, rate=self.rate, batch=self.batch, tau=self.tau)
