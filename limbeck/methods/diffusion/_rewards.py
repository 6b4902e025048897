"""Who says which of two samples is better, where no one else is asked: the teacher itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from limbeck.models.denoiser import Denoiser

__all__ = ["LabelEvidence", "Reward"]

Reward = Callable[[Tensor, Tensor | None], Tensor]
"""Clean samples (B, ...) and labels (B,) to scores (B,), higher is better."""


class LabelEvidence(nn.Module):
    """How much better a teacher sees through noise when it is told the label; without classes, how well it sees at all.

        r(x, y) = mean_t ||eps - eps(x_t, t, 0)||^2 - ||eps - eps(x_t, t, y)||^2

    the evidence of a diffusion classifier (Li et al., 2023, https://arxiv.org/abs/2303.16203), with the same noises
    for every sample, so that a sample's score depends on nothing else.

    Args:
        teacher: asked; its weights are not touched.
        times: at which.
        draws: noises a time.
    """

    def __init__(self, teacher: Denoiser, times: tuple[float, ...] = (0.3, 0.5, 0.7), draws: int = 2) -> None:
        super().__init__()
        self.teacher, self.times, self.draws = teacher, times, draws

    @torch.no_grad()
    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        drawn, total = torch.Generator().manual_seed(0), x.new_zeros(len(x))
        for t in self.times:
            for _ in range(self.draws):
                eps = torch.randn(1, *x.shape[1:], generator=drawn).to(x).expand_as(x)
                x_t = self.teacher.path.noised(x, eps, x.new_full((len(x),), t))
                total = total - self.missed(x_t, t, y, eps)
                if self.teacher.classes and y is not None:
                    total = total + self.missed(x_t, t, None, eps)
        return total / (len(self.times) * self.draws)

    def missed(self, x_t: Tensor, t: float, y: Tensor | None, eps: Tensor) -> Tensor:
        """The squared error in the noise a sample, (B,)."""
        return (self.teacher(x_t, t, y).eps - eps).square().flatten(1).mean(1)
