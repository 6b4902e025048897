"""Fast inference in denoising diffusion models via MMD finetuning (Aiello, Valsesia & Magli, 2023).
https://arxiv.org/abs/2301.07969

A whole sampler of T steps is one generator; the distribution of what it makes is held to the data's in feature space:

    x_{s} = alpha_s x0(x_t) + sigma_s eps(x_t)         DDIM from pure noise, T times, with the gradient through all
    of it f = phi(x_0),  r = phi(real)
    MMD^2 = [sum_{i != j} k(f_i, f_j) + sum_{i != j} k(r_i, r_j)] / (m (m - 1)) - 2 sum_{i, j} k(f_i, r_j) / m^2
    k(a, b) = (<a, b> / d + 1)^3

There is no teacher to follow: few updates specialise a trained model to its few steps. What moves is one number a
batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator
from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, Update
from limbeck.core.modules import Taps, freeze
from limbeck.data.samples import Samples
from limbeck.losses.kernel import cubic, gaussian, linear, mmd2
from limbeck.models.denoiser import Denoiser
from limbeck.models.sampling import Ode, grid

CARD = Card(
    key="mmd_ddm",
    title="Fast Inference in Denoising Diffusion Models via MMD Finetuning",
    authors="Emanuele Aiello, Diego Valsesia, Enrico Magli",
    year=2023,
    url="https://arxiv.org/abs/2301.07969",
    repo="https://github.com/diegovalsesia/MMD-DDM",
    family="diffusion",
    summary="Fine-tunes all steps of a short sampler at once, so that its samples have the data's features.",
    modality="diffusion",
    teacher="frozen",
    data="labelled",
    signal="features",
    loop="on_policy",
    needs=("input_gradients",),
    fidelity="reconstruction",
    notes="The student should begin as a trained model. The teacher is only the network whose features are compared: "
    "the paper's is Inception or CLIP, here it is the denoiser's own inner layer, told a little noise and normalised; "
    "'pixels' needs none. Judge the outcome by other features than these. Batches should be large: the estimate is "
    "noisy, and with labels the two sets have the same ones. Gradients flow through all steps; `recompute` trades "
    "time for memory.",
)


class MMDDDM(Method):
    """The unbiased MMD of features, through a whole chain of DDIM."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    steps: Count = 5
    """T, of the chain. Paper: 5, 10, 15 or 20."""
    kernel: Literal["cubic", "linear", "gaussian"] = "cubic"
    """k."""
    features: Literal["inner", "pixels"] = "inner"
    """phi: the teacher's inner layer, or the samples themselves."""
    level: Fraction = 0.1
    """The time the teacher is told when its features are read; the samples are not noised."""
    recompute: bool = False
    """Run every step again in the backward pass rather than keep what is inside it."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.student.sampler = Ode(self.steps)

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        x = self.chain(torch.randn_like(batch.x), batch.y)
        made = self.phi(x, batch.y)
        with torch.no_grad():
            real = self.phi(batch.x, batch.y)
        yield Update({"mmd": self.mmd(made, real)}, logs={"apart": (made.mean(0) - real.mean(0)).detach().norm()})

    def chain(self, noise: Tensor, y: Tensor) -> Tensor:
        """The sampler's samples (B, ...), with gradient."""
        x = self.student.prior(noise)
        for t, s in itertools.pairwise(grid(self.steps)):
            x = checkpoint(self.step, x, t, s, y, use_reentrant=False) if self.recompute else self.step(x, t, s, y)
        return x

    def step(self, x: Tensor, t: float, s: float, y: Tensor) -> Tensor:
        """One of DDIM."""
        said = self.student(x, t, y)
        return said.x0 if s == 0 else said.at(s)

    def phi(self, x: Tensor, y: Tensor) -> Tensor:
        """Features (B, D); inner ones with a mean square of 1, so that <a, b> / d is a cosine."""
        if self.features == "pixels":
            return x.flatten(1)
        _, (seen,) = Taps(self.teacher.middle)(self.teacher, x, self.level, y)
        seen = seen.flatten(2).mean(2) if seen.ndim == 4 else seen.flatten(1)
        return functional.rms_norm(seen, seen.shape[1:], eps=1e-6)

    def mmd(self, f: Tensor, r: Tensor) -> Tensor:
        """The estimate in float64, in the features' own units; without the correction for a single sample."""
        f, r = f.double(), r.double()
        k = {"cubic": cubic, "linear": linear, "gaussian": gaussian}[self.kernel]
        return mmd2(k(f, f), k(r, r), k(f, r), unbiased=len(f) > 1).float()
