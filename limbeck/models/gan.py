"""Plain generators and discriminators, of images and of vectors; a discriminator gives one logit."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["FeatureDiscriminator", "conv_discriminator", "conv_generator", "mlp_discriminator"]


def conv_generator(inputs: int, shape: tuple[int, int, int], width: int) -> nn.Sequential:
    """Codes (B, inputs) to images (B, C, H, W) in [0, 1]: a quarter of the size first, doubled twice.

    The first layer has no bias: codes are small, and one image for all of them, a bias a pixel, is mode collapse.
    """
    C, H, W = shape
    half, quarter = (max(-(-H // 2), 2), max(-(-W // 2), 2)), (max(-(-H // 4), 2), max(-(-W // 4), 2))
    return nn.Sequential(
        nn.Linear(inputs, 2 * width * quarter[0] * quarter[1], bias=False), nn.Unflatten(1, (2 * width, *quarter)),
        nn.BatchNorm2d(2 * width), nn.ReLU(), nn.Upsample(half),
        nn.Conv2d(2 * width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Upsample((H, W)),
        nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, C, 3, padding=1), nn.Sigmoid(),
    )  # fmt: skip


def conv_discriminator(shape: tuple[int, int, int], width: int) -> nn.Sequential:
    """Images (B, C, H, W) to one logit (B, 1), high for real ones; no normalisation."""
    C, H, W = shape
    return nn.Sequential(
        nn.Conv2d(C, width, 3, 2, padding=1), nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 3, 2, padding=1), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(2 * width * -(-H // 4) * -(-W // 4), 1),
    )  # fmt: skip


def mlp_discriminator(inputs: int, width: int) -> nn.Sequential:
    """Vectors (B, inputs) to one logit (B, 1), high for real ones; two hidden layers."""
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))


class FeatureDiscriminator(nn.Module):
    """One logit a sample, (B,), from inner features of a denoiser: vectors (B, C), tokens (B, T, C) or maps (B, C,
    H, W).

    Args:
        shape: of the features of one sample.
        width: of the hidden layer.
    """

    def __init__(self, shape: tuple[int, ...], width: int = 64) -> None:
        super().__init__()
        inputs = shape[0] if len(shape) == 3 else shape[-1]
        self.norm = nn.GroupNorm(1, inputs)
        self.layers = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, feature: Tensor) -> Tensor:
        match feature.ndim:
            case 4:
                # torch 2.13 dies in the norm's backward pass where channels come last and the feature needs no gradient
                rows = self.norm(feature.contiguous()).flatten(2).transpose(1, 2)
            case 3:
                rows = self.norm(feature.transpose(1, 2)).transpose(1, 2)
            case _:
                rows = self.norm(feature)[:, None]
        return self.layers(rows).mean(1).squeeze(-1)
