"""One-step diffusion models with f-divergence distribution matching (Xu, Nie & Vahdat, 2025).
https://arxiv.org/abs/2502.15681

Distribution matching lowers the reverse KL divergence, which seeks modes. Any other f-divergence D_f(q || p) of the
teacher q from the generator p has the same gradient but for a weight on every sample:

    grad D_f = -E h(r) (s_teacher(x_t) - s_fake(x_t)) dx/dtheta,    h(r) = r^2 f''(r),    r = q(x_t) / p(x_t)
    L_G      = 1/2 mean ||x - sg(x - h (mu_fake - mu_teacher) / mean |x - mu_teacher|)||^2 + lambda softplus(-D(x_t))

r = exp D(x_t), from the discriminator that DMD2 has anyway: a head on the teacher's inner features. It is clipped, set
to mean 1 at every noise level by a running mean in bins of time, and h to mean 1 in a batch: without the two, forward
KL's weights are all noise. h = 1, the reverse KL, is DMD2.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Update
from limbeck.core.modules import eval_mode, freeze
from limbeck.data.samples import Samples
from limbeck.losses.adversarial import nonsaturating
from limbeck.losses.ratio import Divergence, density_ratio, weights
from limbeck.losses.score import distance, follow
from limbeck.methods.diffusion._shared import (
    critic_of,
    denoising,
    discriminator_of,
    logits_of,
    noised_logits,
    produce,
    uniform_times,
)  # fmt: skip
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.path import wide
from limbeck.models.sampling import FewStep

CARD = Card(
    key="f_distill",
    title="One-step Diffusion Models with f-Divergence Distribution Matching",
    authors="Yilun Xu, Weili Nie, Arash Vahdat",
    year=2025,
    url="https://arxiv.org/abs/2502.15681",
    repo="https://github.com/NVlabs/FastGen",
    family="diffusion",
    summary="Distribution matching by any f-divergence: every sample's step is weighed by how much of it is missing.",
    modality="diffusion",
    teacher="frozen",
    data="labelled",
    signal="features",
    loop="alternating",
    needs=("input_gradients", "features"),
    stationary=("matching",),
    notes="One step of a run is one step of the critic and the head, and every `ratio` of them one of the generator. "
    "In the experiment here, on a ring of equal modes that the reverse KL covers already, no gain was seen.",
)
BINS = 10


class FDistill(Method):
    """DMD2's loop, with a weight on every sample's score difference."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    divergence: Divergence = "jensen_shannon"
    """The f-divergence of the teacher from the generator. Paper: Jensen-Shannon; forward KL for CIFAR-10."""
    ratio: Count = 5
    """Steps of the critic for one of the generator. Paper: 5."""
    guidance: NonNegative = 1.0
    """The teacher's classifier-free guidance, off at 1."""
    gan: NonNegative = 1e-3
    """Weight lambda of the generator's adversarial term. Paper: 1e-3; 3e-3 for ImageNet."""
    least: Positive = 0.1
    """Smallest density ratio. Paper: 0.1."""
    most: Positive = 20.0
    """Largest density ratio. Paper: 20."""
    memory: Fraction = 0.0
    """Share that the running mean of the ratio keeps. Paper: 0 for CIFAR-10, 0.5 for ImageNet."""
    t_min: Fraction = 0.02
    """Earliest time the generator's samples are noised to."""
    t_max: Fraction = 0.98
    """Latest time the generator's samples are noised to."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.guided = Guided(self.teacher, self.guidance)
        self.critic = critic_of(self.teacher, self.student)
        self.head = discriminator_of(self.teacher)
        self.register_buffer("means", torch.ones(BINS))
        self.student.sampler = FewStep()

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {
            "student": list(self.student.parameters()),
            "critic": [*self.critic.parameters(), *self.head.parameters()],
        }

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        if clock.step % self.ratio == 0:
            x = self.generate(batch)
            t = uniform_times(x, self.t_min, self.t_max)
            x_t = self.teacher.path.noised(x, torch.randn_like(x), t)
            logits = logits_of(self.head, self.teacher, x_t, t, batch.y)
            matching = self.matching(x, x_t, t, batch.y, self.weights(logits, t)).mean()
            yield Update({"matching": matching, "gan": self.gan * nonsaturating(logits, real=True).mean()})
        with torch.no_grad():
            x = self.generate(batch)
        denoised = denoising(self.critic, x, uniform_times(x, 0.0, 1.0), batch.y).mean()
        fake, real = self.logits(x, batch.y), self.logits(batch.x, batch.y)
        told = nonsaturating(fake, real=False).mean() + nonsaturating(real, real=True).mean()
        yield Update({"denoising": denoised, "discriminator": told}, "critic")

    def generate(self, batch: Samples) -> Tensor:
        """The generator's samples from fresh noise, with gradient."""
        return produce(self.student, torch.randn_like(batch.x), batch.y)

    def weights(self, logits: Tensor, t: Tensor) -> Tensor:
        """h of the normalised ratio a sample, (B,), of mean 1."""
        r = density_ratio(logits, self.least, self.most)
        place, means = (t * BINS).long().clamp(0, BINS - 1), self.means
        assert isinstance(means, Tensor)
        count = torch.bincount(place, minlength=BINS)
        now = torch.zeros_like(means).index_add(0, place, r.to(means)) / count.clamp(min=1)
        if self.training:
            means.copy_(torch.where(count > 0, self.memory * means + (1 - self.memory) * now, means))
        h = weights(self.divergence, r / means[place]).h
        return h / h.mean()

    def matching(self, x: Tensor, x_t: Tensor, t: Tensor, y: Tensor, h: Tensor) -> Tensor:
        """The divergence's gradient at x, as a loss a sample, (B,)."""
        with torch.no_grad(), eval_mode(self.critic):
            real, fake = self.guided(x_t, t, y).x0, self.critic(x_t, t, y).x0
        return follow(x, wide(h, x) * (fake - real) / distance(x, real))

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """What the discriminator says of samples noised to a random time."""
        return noised_logits(self.head, self.teacher, x, y, self.t_min, self.t_max)
