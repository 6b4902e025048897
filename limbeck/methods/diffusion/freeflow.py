"""Flow map distillation without data (Tong, Ma, Xie & Jaakkola, 2025). https://arxiv.org/abs/2511.19428

From noise z alone the student goes a share delta of the way in one step, by its mean velocity F over it:

    f(z, delta) = z + delta F(z, delta),    u(x, t) = -dx/dt            towards the data; t = 1 is noise
    predict     L_P = E ||F(z, delta) - sg(u_T(f(z, delta), 1 - delta) - delta dF/ddelta)||^2
    fake        L_psi = E ||u_psi(x_r, r) - (x - n)||^2,    x = sg f(z, 1),    x_r = (1 - r) x + r n
    correct     grad L_C = E [(u_psi(x_r, r) - u_T(x_r, r)) dx/dtheta]

The predictor is the derivative in delta of delta F, the way gone: where the student is, its velocity is the teacher's.
Its errors pile up along the way; the corrector holds the distribution of what comes out, not of any way, to the
teacher's, by the difference of the velocities that a second network (of the student's samples) and the teacher see.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, NonNegative, Positive, Update, Weight, value
from limbeck.core.modules import eval_mode, freeze
from limbeck.core.schedule import Warmup
from limbeck.data.samples import Samples
from limbeck.losses.score import follow
from limbeck.methods.diffusion._shared import critic_of, denoising, uniform_times
from limbeck.models.conversion import on_path
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.derivative import Derivative, derivative
from limbeck.models.path import Flow, wide
from limbeck.models.sampling import FewStep

CARD = Card(
    key="freeflow",
    title="Flow Map Distillation Without Data",
    authors="Shangyuan Tong, Nanye Ma, Saining Xie, Tommi Jaakkola",
    year=2025,
    url="https://arxiv.org/abs/2511.19428",
    repo="https://github.com/ShangyuanTong/FreeFlow",
    family="diffusion",
    summary="Learns the teacher's flow from noise alone, any share of the way in a step, and corrects what comes out.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="features",
    loop="alternating",
    fidelity="reconstruction",
    notes="Assumed: uniform delta and r, the weights (the regression's is MeanFlow's adaptive one), the corrector's "
    "warm-up and its noising range, one step of the second network to one of the student. Of the training set only "
    "labels and shapes are read. Networks on another path are read as flows by matching signal-to-noise ratios.",
)


class FreeFlow(Method):
    """The teacher's velocity at the student's own states, and a distribution gradient at their end."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    corrector: Weight = Warmup(0.25)
    """Weight of the corrector; 0 leaves it and the second network out."""
    ratio: Count = 1
    """Steps of the second network for one of the student."""
    guidance: NonNegative = 1.0
    """The teacher's classifier-free guidance, off at 1."""
    power: NonNegative = 1.0
    """p of the adaptive weight ``1 / (||error||^2 + c)^p``; 0 is the plain square."""
    c: Positive = 1e-3
    """c of the adaptive weight."""
    derivative: Derivative = "jvp"
    """How dF/ddelta is taken: exactly, or by finite differences where a network has no forward mode."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.flow = Guided(on_path(self.teacher, Flow()), self.guidance)
        self.student = on_path(self.student if self.student.extras else self.student.told(1), Flow())
        self.fake = on_path(critic_of(self.teacher, self.student), Flow())
        self.student.sampler = FewStep((1.0,), target=True)

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "fake": list(self.fake.parameters())}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        weight, z, y = value(self.corrector, clock), torch.randn_like(batch.x), batch.y
        if clock.step % self.ratio == 0:
            terms = {"predict": self.predict(z, y, torch.rand(len(z), device=z.device))}
            if weight > 0:
                terms["correct"] = weight * self.correct(self.jump(torch.randn_like(z), y), y)
            yield Update(terms)
        with torch.no_grad():
            x = self.jump(z, y)
        fake = denoising(self.fake, x, uniform_times(x, 0.0, 1.0), y, target="velocity")
        yield Update({"velocity": fake.mean()}, "fake")

    def mean_velocity(self, z: Tensor, delta: Tensor, y: Tensor) -> Tensor:
        """F (B, ...), towards the data; the network is told where it goes: the time ``1 - delta`` (B,)."""
        return -self.student(z, torch.ones_like(delta), y, (1 - delta)[:, None]).velocity

    def jump(self, z: Tensor, y: Tensor) -> Tensor:
        """f(z, 1): the sample."""
        return z + self.mean_velocity(z, torch.ones(len(z), device=z.device), y)

    def predict(self, z: Tensor, y: Tensor, delta: Tensor) -> Tensor:
        """The regression on the identity of delta F's derivative."""
        F = self.mean_velocity(z, delta, y)
        far = wide(delta, z)
        _, slope = derivative(
            lambda d: self.mean_velocity(z, d, y), (delta,), (torch.ones_like(delta),), self.derivative
        )
        with torch.no_grad():
            target = -self.flow(z + far * F, 1 - delta, y).velocity - far * slope
        error = (F - target).square().flatten(1).mean(1)
        return (error / (error.detach() + self.c) ** self.power).mean()

    def correct(self, x: Tensor, y: Tensor) -> Tensor:
        """A loss whose descent leads x (B, ...) from where the second network sees it to where the teacher does."""
        r = uniform_times(x)
        with torch.no_grad(), eval_mode(self.fake):
            x_r = Flow().noised(x, torch.randn_like(x), r)
            gap = self.flow(x_r, r, y).velocity - self.fake(x_r, r, y).velocity  # noise-ward: u_psi - u_T
        return follow(x, gap).mean()
