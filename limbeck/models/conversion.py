"""A model of one noise path as a model of another, without loss: times are matched by signal-to-noise ratio.

    sigma_A(t_A) / alpha_A(t_A) = sigma_B(t) / alpha_B(t),      x_A = x_t |(alpha_A, sigma_A)| / |(alpha_B, sigma_B)|

At the matched time both states are the same up to their scale, so that what is clean and what is noise in one is so in
the other. From the straight path to the circle this is SANA-Sprint's conversion (Chen et al., 2025,
https://arxiv.org/abs/2503.09641, equations 8 to 10), the other way round the change of parametrisation with which
InstaFlow reads Stable Diffusion as a flow (Liu et al., 2024, https://arxiv.org/abs/2309.06380).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from limbeck.models.denoiser import Denoiser
from limbeck.models.path import Path, Prediction, mixture, wide
from limbeck.models.sampling import FewStep

__all__ = ["Converted", "home", "on_path"]


class Converted(nn.Module):
    """The network of a model that is now called on another path.

    Args:
        model: the model as it was; its weights are what learns.
        path, prediction: what is asked of it now.
    """

    def __init__(self, model: Denoiser, path: Path, prediction: Prediction) -> None:
        super().__init__()
        self.model, self.path, self.prediction = model, path, prediction
        self.extras, self.middle = model.extras, f"model.{model.middle}"

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        own = self.model.path
        s = own.time(self.path.sigma(t) / self.path.alpha(t))
        if not (own.unit and self.path.unit):
            scale = torch.hypot(own.alpha(s), own.sigma(s)) / torch.hypot(self.path.alpha(t), self.path.sigma(t))
            x = x * wide(scale, x)
        said = self.model(x, s, y, extra)
        a, b = mixture(self.path, t, self.prediction)
        return wide(a, x) * said.x0 + wide(b, x) * said.eps

    def told(self, extras: int) -> Converted:
        """A copy whose network is told so many further numbers: see :meth:`Denoiser.told`."""
        return Converted(self.model.told(extras), self.path, self.prediction)


def on_path(model: Denoiser, path: Path, prediction: Prediction = "velocity") -> Denoiser:
    """The same model, with the same weights, on another path; the model itself where it is there already.

    Samplers of equal times take other steps then: ``model.sampler`` is kept as it is.
    """
    if model.path == path and model.prediction == prediction:
        return model
    net = Converted(model, path, prediction)
    return Denoiser(net, shape=model.shape, path=path, prediction=prediction, classes=model.classes,
                    sampler=model.sampler)  # fmt: skip


def home(model: Denoiser) -> Denoiser:
    """The model inside a converted one, on its own path, with a sampler that makes the same samples from the same noise
    where there is one.

    Jumps to the clean sample, with all of the noise fresh or all of it kept, do not depend on the path but for their
    times, which are matched. Other samplers are left as they are.
    """
    net, sampler = model.net, model.sampler
    assert isinstance(net, Converted)
    if isinstance(sampler, FewStep) and sampler.gamma in (0, 1) and not sampler.target:
        there = net.model.path.time(model.path.ratio(torch.tensor(sampler.times))).tolist()
        sampler = replace(sampler, times=tuple(1.0 if t == 1 else s for t, s in zip(sampler.times, there, strict=True)))
    made = Denoiser(
        net.model.net, shape=net.model.shape, path=net.model.path, prediction=net.model.prediction,
        classes=net.model.classes, data=net.model.data, sampler=sampler,
    )  # fmt: skip
    made.reference = net.model.reference
    return made
