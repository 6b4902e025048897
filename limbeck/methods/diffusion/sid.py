"""Score identity distillation: exponentially fast distillation of pretrained diffusion models for one-step generation
(Zhou, Zheng, Wang, Yin & Huang, 2024). https://arxiv.org/abs/2404.04057

The generator x = G(sigma_init z) is noised to x_t; a frozen teacher and a fake score network, which learns the
generator's own distribution, say where they see its clean sample, and the gradient goes through both of them:

    L_G   = (y_real - y_fake)^T ((y_real - x) - alpha (y_real - y_fake)) / sg(mean |x - y_real|)
    L_psi = E lambda(sigma) ||y_fake(x_t) - sg(x)||^2,    lambda = (sigma^2 + d^2) / (sigma d)^2

L_G is the Fisher divergence of the two noised distributions, with one of its two score differences projected onto what
needs no true score of the generator (equation 23). alpha = 0 is the plain squared difference, which fails where the
fake score is only fitted; the paper finds 1 and 1.2 best. No data are used.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, Positive, Update
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.losses.score import distance, fisher
from limbeck.methods.diffusion._shared import critic_of, denoising, karras_times, lognormal_times, produce, still
from limbeck.models.denoiser import Denoiser
from limbeck.models.sampling import FewStep

CARD = Card(
    key="sid",
    title="Score identity Distillation: Exponentially Fast Distillation of Pretrained Diffusion Models for One-Step "
    "Generation",
    authors="Mingyuan Zhou, Huangjie Zheng, Zhendong Wang, Mingzhang Yin, Hai Huang",
    year=2024,
    url="https://arxiv.org/abs/2404.04057",
    repo="https://github.com/mingyuanzhou/SiD",
    family="diffusion",
    summary="A one-step generator lowers the Fisher divergence to its teacher, through both score networks.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="features",
    loop="alternating",
    needs=("input_gradients",),
    vanishes=("fisher",),
    notes="Of a batch only the labels and the size are used. Noise levels are sigma / alpha, so that the paper's EDM "
    "settings hold on any path. The paper samples from a moving average of the generator, which a falling learning "
    "rate replaces here.",
)


class SiD(Method):
    """The fake score's step, then the generator's, on fresh noise."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    alpha: float = 1.2
    """How far the projected divergence is corrected for the fake score's error. Paper: 1.2; 1 for AFHQ."""
    start: Positive = 2.5
    """Noise level sigma_init at which the generator reads its noise. Paper: 2.5."""
    t_max: Fraction = 0.8
    """Largest noise level, as a share of Karras' grid from 0.002 to 80. Paper: 800 of 1000 steps."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.critic = critic_of(self.teacher, self.student)
        self.begins = float(self.student.path.time(torch.tensor(self.start)))
        self.student.sampler = FewStep((self.begins,))

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "critic": list(self.critic.parameters())}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        with torch.no_grad():
            x = self.generate(batch)
        t = lognormal_times(self.critic.path, x)
        yield Update({"denoising": denoising(self.critic, x, t, batch.y, target="edm").mean()}, "critic")
        yield Update({"fisher": self.fisher(self.generate(batch), batch.y)})

    def generate(self, batch: Samples) -> Tensor:
        """The generator's samples from fresh noise, with gradient."""
        return produce(self.student, torch.randn_like(batch.x), batch.y, self.begins)

    def fisher(self, x: Tensor, y: Tensor) -> Tensor:
        """The projected Fisher divergence of x to the teacher, over its normaliser."""
        t = karras_times(self.teacher.path, x, high=self.t_max)
        x_t = self.teacher.path.noised(x, torch.randn_like(x), t)
        with still(self.critic):
            real, fake = self.teacher(x_t, t, y).x0, self.critic(x_t, t, y).x0
        return (fisher(x, real, fake, self.alpha) / distance(x, real, 1e-5).flatten()).mean()
