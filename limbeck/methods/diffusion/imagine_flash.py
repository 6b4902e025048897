"""Imagine Flash: accelerating Emu diffusion models with backward distillation (Kohler et al., 2024).
https://arxiv.org/abs/2405.05224

    x_t    = the student's own steps from x_T ~ N(0, I) down to t, without gradient           (backward distillation)
    x      = x0 that the student sees in x_t
    x_t'   = alpha_t' sg(x) + sigma_t' eps,  t' = gamma(t)                                    (shifted reconstruction)
    L      = E ||x - sg(solver of the teacher, x_t' -> 0, guided)||^2 + lambda L_GAN
    x_s    = alpha_s x + sigma_s x_T for the first step, alpha_s x + sigma_s eps_theta after   (noise correction)

Nothing of a real sample leaks into what the student is trained on: it sees what it will see. Early steps are noised
far, so that the teacher can change what is global; late ones a little, so that it adds detail.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Update, Weight, value
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.losses.adversarial import hinge
from limbeck.methods.diffusion._shared import discriminator_of, noised_logits
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.sampling import grid, solve

CARD = Card(
    key="imagine_flash",
    title="Imagine Flash: Accelerating Emu Diffusion Models with Backward Distillation",
    authors="Jonas Kohler, Albert Pumarola, Edgar Schönfeld, Artsiom Sanakoyeu, Roshan Sumbaly, Peter Vajda, Ali "
    "Thabet",
    year=2024,
    url="https://arxiv.org/abs/2405.05224",
    family="diffusion",
    summary="Trains a few steps on the student's own states, with the teacher's reconstruction of what it made.",
    modality="diffusion",
    teacher="frozen",
    data="labelled",
    signal="features",
    loop="on_policy",
    needs=("input_gradients",),
    fidelity="reconstruction",
    notes="Assumed: gamma (a line between two times), the teacher's few steps, lambda, and that the discriminator "
    "sees samples at all noise levels, on the frozen teacher's inner features. The noise correction changes nothing "
    "where the last noise level has no signal left and the network predicts velocities.",
)


@dataclass(frozen=True)
class Corrected:
    """DDIM at the given times, falling from the first, whose first step goes on with the very noise it began with."""

    times: tuple[float, ...]

    @property
    def nfe(self) -> int:
        return len(self.times)

    def state(self, model: nn.Module, noise: Tensor, y: Tensor | None, upto: int) -> Tensor:
        """The state (B, ...) at ``times[upto]``."""
        x = model.prior(noise, self.times[0])
        for k, (t, s) in enumerate(itertools.pairwise(self.times[: upto + 1])):
            said = model(x, t, y)
            x = (said._replace(eps=noise) if k == 0 else said).at(s)
        return x

    def __call__(
        self, model: nn.Module, noise: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None, /
    ) -> Tensor:
        last = len(self.times) - 1
        return model(self.state(model, noise, y, last), self.times[last], y).x0


class ImagineFlash(Method):
    """The teacher reconstructs what the student makes on its own way, and a discriminator compares it with data."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    times: tuple[float, ...] = (1.0, 2 / 3, 1 / 3)
    """The student's steps, falling. Paper: three."""
    near: Fraction = 0.2
    """gamma of the last step's time: how far its samples are noised for the teacher."""
    far: Fraction = 0.8
    """gamma of the first step's time."""
    teacher_steps: Count = 4
    """Steps of DPM-Solver++ in which the teacher reconstructs."""
    guidance: NonNegative = 1.0
    """The teacher's classifier-free guidance, off at 1."""
    gan: Weight = 0.1
    """lambda; 0 leaves the discriminator out."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.guided = Guided(self.teacher, self.guidance)
        self.head = discriminator_of(self.teacher)
        self.student.sampler = self.own = Corrected(self.times)

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "discriminator": list(self.head.parameters())}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        y, k, weight = batch.y, int(torch.randint(len(self.times), ())), value(self.gan, clock)
        with torch.no_grad():
            x_t = self.own.state(self.student, torch.randn_like(batch.x), y, k)
        x = self.student(x_t, self.times[k], y).x0
        terms = {"reconstruction": (x - self.reconstructed(x, y, self.shifted(k))).square().mean()}
        if weight > 0:
            terms["gan"] = -weight * self.logits(x, y).mean()
        yield Update(terms)
        if weight > 0:
            told = hinge(self.logits(x.detach(), y), real=False) + hinge(self.logits(batch.x, y), real=True)
            yield Update({"hinge": told.mean()}, "discriminator")

    def shifted(self, k: int) -> float:
        """gamma of the time of step k."""
        first, last = self.times[0], self.times[-1]
        share = 1.0 if first == last else (self.times[k] - last) / (first - last)
        return self.near + (self.far - self.near) * share

    @torch.no_grad()
    def reconstructed(self, x: Tensor, y: Tensor, t: float) -> Tensor:
        """What the teacher makes of x (B, ...) noised to time t."""
        x_t = self.teacher.path.noised(x, torch.randn_like(x), x.new_full((len(x),), t))
        return solve(self.guided, x_t, grid(self.teacher_steps, t), y, solver="dpm2m")[-1]

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """What the discriminator says of samples noised to a random time."""
        return noised_logits(self.head, self.teacher, x, y, 0.02, 0.98)
