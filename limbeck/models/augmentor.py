"""Affine maps of images whose distribution is learnt (Nix, Burg & Sinz, 2023). https://arxiv.org/abs/2305.14890"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Augmentor", "affine"]


def affine(x: Tensor, a: Tensor, padding: Literal["zeros", "border", "reflection"] = "zeros") -> Tensor:
    """Move images (B, C, H, W) by parameters (B, 6): each the identity at 0, differentiable in both.

    Args:
        x: images.
        a: angle in radians, log-scale across and down, shear, shift right and down in halves of the image's size.
        padding: what comes in from outside.
    """
    angle, stretch, shear, shift = a[:, 0], a[:, 1:3], a[:, 3], a[:, 4:]
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    turn = torch.stack([c, s, -s, c], 1).view(-1, 2, 2)  # where an output pixel comes from: the inverse of the map
    slant = torch.stack([one, -shear, zero, one], 1).view(-1, 2, 2)
    back = stretch.neg().exp().diag_embed() @ slant @ turn
    theta = torch.cat([back, -back @ shift.unsqueeze(2)], 2)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode=padding, align_corners=False)


class Augmentor(nn.Module):
    """Affine maps drawn from a learnt normal distribution, at first a tenth as far as they may go."""

    def __init__(self, largest: float, padding: Literal["zeros", "border", "reflection"]) -> None:
        super().__init__()
        self.largest, self.padding = largest, padding
        self.mu, self.sigma = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.full((6,), 0.1 * largest))

    def forward(self, x: Tensor) -> Tensor:
        return affine(x, self.mu + self.sigma * torch.randn(len(x), 6, device=x.device), self.padding)

    @torch.no_grad()
    def project(self) -> None:
        """Back into the bounds: |mu| and sigma at most ``largest``, sigma not negative."""
        self.mu.clamp_(-self.largest, self.largest)
        self.sigma.clamp_(0, self.largest)
