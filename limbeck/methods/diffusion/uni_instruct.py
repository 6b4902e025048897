"""Uni-Instruct: one-step diffusion model through unified diffusion divergence instruction (Wang et al., 2025).
https://arxiv.org/abs/2505.20755

An f-divergence of clean distributions, teacher q and generator p, is an integral over the noise of squared score
differences u = s_p - s_q, weighed by the density ratio r = q_t / p_t:

    D_f(q || p) = int 1/2 g^2(t) E_{p_t} [h(r) ||u||^2] dt,    h(r) = r^2 f''(r)

whose gradient at one t has a part as of score implicit matching, one as of Diff-Instruct, and one that comes of where
x_t lies:

    E[2 h u^T ds_p] + E[r^2 h'' ||u||^2 u^T dx_t] + E[(h - r h') grad_{x_t} ||u||^2 . dx_t]

In denoised samples, with d = y_fake - y_real, u = (alpha / sigma^2) d, and over SiD's normaliser m, the loss is

    L = (h l + 1/2 r^2 h'' (alpha^2 / sigma^2) sg(||d||^2 d)^T x [+ 1/2 (h - r h') ||d||^2]) / m + lambda softplus(-D)
    l = (y_real - y_fake)^T (y_fake - x)

Reverse KL is SiD at alpha 1 (SIM with a squared distance); forward KL, h = r, has no second part. r = exp D(x_t), from
a head on the fake score's inner features, is taken as given, and all parts are divided by the batch's mean of h.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, NonNegative, Positive, Update
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.losses.adversarial import nonsaturating
from limbeck.losses.ratio import Divergence, density_ratio, weights
from limbeck.losses.score import along, distance, fisher
from limbeck.methods.diffusion._shared import (
    critic_of,
    denoising,
    discriminator_of,
    karras_times,
    logits_of,
    lognormal_times,
    produce,
    still,
)  # fmt: skip
from limbeck.models.denoiser import Denoiser
from limbeck.models.sampling import FewStep

CARD = Card(
    key="uni_instruct",
    title="Uni-Instruct: One-step Diffusion Model through Unified Diffusion Divergence Instruction",
    authors="Yifei Wang, Weimin Bai, Colin Zhang, Debing Zhang, Weijian Luo, He Sun",
    year=2025,
    url="https://arxiv.org/abs/2505.20755",
    repo="https://github.com/a-little-hoof/Uni_Instruct",
    family="diffusion",
    summary="A one-step generator lowers any f-divergence, by score differences weighed with a density ratio.",
    modality="diffusion",
    teacher="frozen",
    data="labelled",
    signal="features",
    loop="alternating",
    needs=("input_gradients",),
    vanishes=("divergence",),
    fidelity="reconstruction",
    notes="The gradient's three parts were derived from the divergence and checked by quadrature. The released code "
    "has the first two, and for Jeffreys h = 0.4 r + 0.6; it takes a loss for a probability where it needs r, and "
    "leaves r undefined for the reverse KL: here r is the exponential of the logit. Assumed: the head (theirs is the "
    "mean of the features), the clipping of r, and the stages' shares of a run (100k images each). In the experiment "
    "here, on a ring of equal modes that the reverse KL covers already, the two divergences tie.",
)


class UniInstruct(Method):
    """The fake score's and its head's step, then the generator's, which first waits and then begins as SiD."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    divergence: Divergence = "forward_kl"
    """The f-divergence of the teacher from the generator. Paper: forward KL is best on ImageNet."""
    sampling: bool = False
    """Whether the part that comes of where x_t lies is kept; the released code leaves it out. Where h'' < 0, as for
    Jensen-Shannon and Hellinger, the second part points away from the teacher: with a learnt ratio Jensen-Shannon ran
    away in trials, with this part and without."""
    gan: NonNegative = 1e-4
    """Weight lambda of the generator's adversarial term. Released code: 0.01 to 100 of the divergence."""
    start: Positive = 2.5
    """Noise level sigma_init at which the generator reads its noise. Paper: 2.5."""
    t_max: Fraction = 0.8
    """Largest noise level, as a share of Karras' grid from 0.002 to 80. Paper: 800 of 1000 steps."""
    still_until: Fraction = 0.05
    """Share of the run in which only the fake score and the head learn. Assumed; released: 100k images."""
    plain_until: Fraction = 0.1
    """Share of the run until which all weights are those of the reverse KL. Assumed; released: 200k images."""
    least: Positive = 1e-3
    """Smallest density ratio. Assumed; raised, the second part no longer dies off where the teacher never is."""
    most: Positive = 20.0
    """Largest density ratio. Assumed."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.critic = critic_of(self.teacher, self.student)
        self.head = discriminator_of(self.critic)
        self.begins = float(self.student.path.time(torch.tensor(self.start)))
        self.student.sampler = FewStep((self.begins,))

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {
            "student": list(self.student.parameters()),
            "critic": [*self.critic.parameters(), *self.head.parameters()],
        }

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        y = batch.y
        with torch.no_grad():
            x = self.generate(batch)
        t = lognormal_times(self.critic.path, x)
        denoised = denoising(self.critic, x, t, y, target="edm").mean()
        fake, real = (logits_of(self.head, self.critic, *self.noised(made), y) for made in (x, batch.x))
        told = nonsaturating(fake, real=False).mean() + nonsaturating(real, real=True).mean()
        yield Update({"denoising": denoised, "discriminator": told}, "critic")
        if clock.fraction < self.still_until:
            return
        x = self.generate(batch)
        x_t, t = self.noised(x)
        with still(self.critic, self.head):
            logits = logits_of(self.head, self.critic, x_t, t, y)
        r = density_ratio(logits, self.least, self.most)
        divergence = "reverse_kl" if clock.fraction < self.plain_until else self.divergence
        terms = {"divergence": self.unified(x, x_t, t, y, r, divergence=divergence).mean()}
        if self.gan > 0:
            terms["gan"] = self.gan * nonsaturating(logits, real=True).mean()
        yield Update(terms)

    def generate(self, batch: Samples) -> Tensor:
        """The generator's samples from fresh noise, with gradient."""
        return produce(self.student, torch.randn_like(batch.x), batch.y, self.begins)

    def noised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x at a random noise level, and its time."""
        t = karras_times(self.teacher.path, x, high=self.t_max)
        return self.teacher.path.noised(x, torch.randn_like(x), t), t

    def unified(self, x: Tensor, x_t: Tensor, t: Tensor, y: Tensor, r: Tensor, *, divergence: Divergence) -> Tensor:
        """Half the gradient of ``h(r) ||y_fake - y_real||^2`` as a loss a sample, (B,), over its normalisers."""
        with still(self.critic):
            real, fake = self.teacher(x_t, t, y).x0, self.critic(x_t, t, y).x0
        w, path = weights(divergence, r), self.teacher.path
        squared = (fake - real).flatten(1).square().sum(1)
        snr = (path.alpha(t) / path.sigma(t)).square()
        loss = w.h * fisher(x, real, fake) + w.curvature * snr * squared.detach() * along(fake - real, x) / 2
        if self.sampling:
            loss = loss + (w.h - w.slope) * squared / 2
        return loss / w.h.mean() / distance(x, real, 1e-5).flatten()
