"""EM distillation for one-step diffusion models (Xie, Xiao, Kingma, Hou, Wu, Murphy, Salimans, Poole & Gao, 2024).
https://arxiv.org/abs/2405.16852

The generator with its noise is a latent variable model, x = alpha_t g(z) + sigma_t eps, of the teacher's noised
marginal q_t. Expectation: from a pair (eps, z) of the generator's own, K steps of Langevin dynamics towards
rho(eps, z) ~ q_t(x) / p_t(x) N(eps; 0, I) N(z; 0, I), whose x is distributed as q_t:

    eps <- eps + gamma_eps (sigma_t (s_q - s_phi)(x) - eps) + sqrt(2 gamma_eps) n
    z   <- z + gamma_z (alpha_t J_g(z)^T (s_q - s_phi)(x) - z) + sqrt(2 gamma_z) n'

Maximisation: the generator, held at z, moves towards the x found, freed of all the noise in it (noise cancellation):

    L_G   = E ||alpha_t g(sg z) - sg(x - sigma_t eps_noise)||^2      eps_noise: the first eps and every n, decayed alike
    L_phi = E ||eps_phi(alpha_t sg(g(z)) + sigma_t eps, t) - eps||^2

With K = 1 and gamma_z = 0 it is Diff-Instruct, the reverse KL divergence; more steps lead to the forward KL.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Update
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.methods.diffusion._shared import critic_of, denoising, produce, still, uniform_times
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.path import wide
from limbeck.models.sampling import FewStep

CARD = Card(
    key="em_distillation",
    title="EM Distillation for One-step Diffusion Models",
    authors="Sirui Xie, Zhisheng Xiao, Diederik P. Kingma, Tingbo Hou, Ying Nian Wu, Kevin Murphy, Tim Salimans, Ben "
    "Poole, Ruiqi Gao",
    year=2024,
    url="https://arxiv.org/abs/2405.16852",
    family="diffusion",
    summary="Langevin steps correct a one-step generator's samples towards its teacher, and it learns to make them so.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="probabilities",
    loop="alternating",
    vanishes=("maximisation",),
    fidelity="reconstruction",
    notes="No code was released. Assumed: both step sizes, weight 1 at every time, times between 0.02 and 0.98. The "
    "paper's last steps on eps without noise are left out. A step costs K calls of teacher and critic, and K of the "
    "student with its derivative unless `z_step` is 0. Of a batch only the labels and the size are used.",
)


class EMDistillation(Method):
    """Correction by Langevin steps, then one step of the generator and one of the critic."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    steps: Count = 16
    """Langevin steps K. Paper: 16 for ImageNet, 8 for Stable Diffusion."""
    eps_step: Positive = 0.16
    """gamma_eps, the step of the noise. Assumed."""
    z_step: NonNegative = 1.6e-5
    """gamma_z, the step of the latent; 0 leaves z where it is. Assumed."""
    guidance: NonNegative = 1.0
    """The teacher's classifier-free guidance, off at 1. Paper: on for Stable Diffusion."""
    start: Positive = 20.0
    """Noise level sigma / alpha at which the generator reads z. Paper: a log-SNR of about -6, which is 20."""
    t_min: Fraction = 0.02
    """Earliest time the generator's samples are noised to. Assumed."""
    t_max: Fraction = 0.98
    """Latest time the generator's samples are noised to. Assumed."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.guided = Guided(self.teacher, self.guidance)
        self.critic = critic_of(self.teacher, self.student)
        self.begins = float(self.student.path.time(torch.tensor(self.start)))
        self.student.sampler = FewStep((self.begins,))

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "critic": list(self.critic.parameters())}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        z, y = torch.randn_like(batch.x), batch.y
        t = uniform_times(z, self.t_min, self.t_max)
        z, moved = self.corrected(z, torch.randn_like(z), t, y)
        yield Update({"maximisation": self.maximisation(z, moved, t, y).mean()})
        with torch.no_grad():
            x = produce(self.student, torch.randn_like(batch.x), y, self.begins)
        yield Update({"denoising": denoising(self.critic, x, uniform_times(x, 0.0, 1.0), y).mean()}, "critic")

    def corrected(self, z: Tensor, eps: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """K Langevin steps: where z gets to, and how far eps was moved, without the noise: ``eps - eps_noise``."""
        alpha, sigma = (wide(c, z) for c in (self.teacher.path.alpha(t), self.teacher.path.sigma(t)))
        moved, keep = torch.zeros_like(eps), 1 - self.eps_step
        with still(self.student, self.critic):
            for _ in range(self.steps):
                z = z.detach().requires_grad_(self.z_step > 0)
                with torch.set_grad_enabled(self.z_step > 0):
                    g = produce(self.student, z, y, self.begins)
                with torch.no_grad():
                    x = alpha * g + sigma * (eps + moved)
                    pull = self.critic(x, t, y).eps - self.guided(x, t, y).eps  # sigma times the scores' difference
                if self.z_step > 0:
                    (back,) = torch.autograd.grad(g, z, alpha / sigma * pull)
                    z = z + self.z_step * (back - z) + math.sqrt(2 * self.z_step) * torch.randn_like(z)
                moved = keep * moved + self.eps_step * pull
                eps = keep * eps + math.sqrt(2 * self.eps_step) * torch.randn_like(eps)
        return z.detach(), moved

    def maximisation(self, z: Tensor, moved: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """``||alpha g(z) - sg(x - sigma eps_noise)||^2`` a sample, (B,), over the number of elements.

        With ``x = alpha g(z) + sigma (eps_noise + moved)`` the target is ``alpha g(z) + sigma moved``.
        """
        alpha, sigma = (wide(c, z) for c in (self.teacher.path.alpha(t), self.teacher.path.sigma(t)))
        at = alpha * produce(self.student, z, y, self.begins)
        return (at - (at + sigma * moved).detach()).square().flatten(1).mean(1)
