"""The autoencoder of a latent diffusion model: from images to what its network works on, and back.

Rombach et al. (2022), https://arxiv.org/abs/2112.10752, in the words of diffusers:

    z = scale (E(x) - shift),      x = D(z / scale + shift)

where E(x) is the mean of the posterior, so that a latent is a function of its image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.modules import freeze
from limbeck.errors import InputError
from limbeck.models.diffusers_read import quiet, read_json, read_network

__all__ = ["Autoencoder", "read_autoencoder"]

PLACE = "vae"  # in a pipeline's folder
ROWS = 64  # images at a time


class Autoencoder(nn.Module):
    """A frozen ``AutoencoderKL`` of diffusers.

    Args:
        vae: with its ``config``, whose ``scaling_factor`` and ``shift_factor`` are those above.
    """

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae: Any = freeze(vae)
        self.scale, self.shift = float(vae.config.scaling_factor), float(vae.config.shift_factor or 0.0)

    def shape_of(self, images: Sequence[int]) -> tuple[int, int, int]:
        """Of the latents of images (C, H, W).

        Raises:
            InputError: for images with other channels, or that cannot be halved as often as it does.
        """
        channels, height, width = images
        config = self.vae.config
        by = 2 ** (len(config.block_out_channels) - 1)
        if channels != config.in_channels:
            raise InputError("data", channels, f"are the images' channels; the autoencoder reads {config.in_channels}")
        if height % by or width % by:
            raise InputError(
                "size", f"{height}x{width}", f"must be a multiple of {by}: the autoencoder shrinks so much"
            )
        return int(config.latent_channels), height // by, width // by

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] to latents (N, c, h, w), on the images' device."""
        parts = [self.vae.encode(part.to(self.vae.device)).latent_dist.mode().to(x) for part in x.split(ROWS)]
        return self.scale * (torch.cat(parts) - self.shift)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Latents (N, c, h, w) to images (N, C, H, W), some a little out of [-1, 1], on the latents' device."""
        z = z / self.scale + self.shift
        return torch.cat([self.vae.decode(part.to(self.vae.device)).sample.to(z) for part in z.split(ROWS)])

    @property
    def fingerprint(self) -> str:
        """A hash of the weights and the two numbers."""
        said = hashlib.sha256(f"{self.scale} {self.shift}".encode())
        for name, tensor in self.vae.state_dict().items():
            said.update(name.encode() + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return said.hexdigest()[:16]

    def save(self, folder: File) -> None:
        """Write it into a pipeline's folder."""
        with quiet():
            self.vae.save_pretrained(folder / PLACE)


def read_autoencoder(folder: File | str) -> Autoencoder | None:
    """That of a pipeline's folder; ``None`` where there is none.

    Raises:
        InputError: for another kind than ``AutoencoderKL``, and for pickled weights.
    """
    home = File(folder) / PLACE
    if not (home / "config.json").is_file():
        return None
    return Autoencoder(read_network(home, read_json(home / "config.json"), ("AutoencoderKL",)))
