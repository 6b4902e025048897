"""Score forgetting distillation: a swift, data-free method for machine unlearning in diffusion models (Chen, Zhang &
Zhou, 2024). https://arxiv.org/abs/2409.11219

A conditional model becomes a one-step generator that has forgotten one class c_f: for it, the teacher is asked for
another class c_s, while the fake score network is told the label that the generator was told.

    L(c_p, c_g; x) = (y_p - y_fake)^T ((y_p - x) - alpha (y_p - y_fake)) / sg(mean |x - y_p|)
    L_G   = L(c, c; g(z, c)) + lambda_f L(c_s, c_f; g(z, c_f))
    L_phi = ||eps - eps_phi(x_t, t, c)||^2 + lambda_f ||eps - eps_phi(x_t^f, t, c_f)||^2      c: a random class kept

with y_p the clean sample that the teacher sees given c_p, y_fake the fake score's given c_g. No data are used.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import KW_ONLY
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, NonNegative, Positive, Update
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.losses.score import distance, fisher
from limbeck.methods.diffusion._shared import critic_of, denoising, produce, still, uniform_times
from limbeck.models.denoiser import Denoiser
from limbeck.models.path import VP
from limbeck.models.sampling import FewStep

CARD = Card(
    key="score_forgetting",
    title="Score Forgetting Distillation: A Swift, Data-Free Method for Machine Unlearning in Diffusion Models",
    authors="Tianqi Chen, Shujian Zhang, Mingyuan Zhou",
    year=2024,
    url="https://arxiv.org/abs/2409.11219",
    repo="https://github.com/tqch/score-forgetting-distillation",
    family="diffusion",
    summary="A one-step generator is distilled that makes something else when asked for a class it is to forget.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="features",
    loop="alternating",
    needs=("input_gradients",),
    vanishes=("remain",),
    notes="Times are those of DDPM's thousand steps, carried over to other paths at the same noise. Assumed: the fake "
    "score is trained at the times it is read at. The released random override draws from nine classes by number; "
    "here any number of classes. Of a batch only the size is used. The paper also forgets in a second stage: give a "
    "distilled generator as the student.",
)


class ScoreForgetting(Method):
    """Score identity distillation of the classes kept, and of the forgotten one with the teacher's label exchanged."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    forget: Annotated[int, Ge(0)] = 0
    """The class to forget, by its row."""
    override: Annotated[int, Ge(-1)] = -1
    """The class to make instead; -1 for a random one of those kept. Paper: either."""
    forget_weight: NonNegative = 0.01
    """lambda_f. Paper: 0.01 for CIFAR-10, 1 for Stable Diffusion."""
    alpha: float = 1.2
    """How far the projected divergence is corrected for the fake score's error. Paper: 1.2."""
    start: Positive = 2.5
    """Noise level at which the generator reads its noise. Paper: step 440 of DDPM's 1000, which is 2.5."""
    t_min: Fraction = 0.038
    """Earliest time of the losses, of DDPM's. Paper: 38 of 1000."""
    t_max: Fraction = 0.712
    """Latest time of the losses, of DDPM's. Paper: 712 of 1000."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        count = len(self.teacher.classes)
        if count < 2:
            raise InputError("teacher", count, "classes are too few; one is to be forgotten and one kept")
        for name, label in (("forget", self.forget), ("override", self.override)):
            if label >= count:
                raise InputError(name, label, f"is not one of the classes 0 to {count - 1}")
        if self.override == self.forget:
            raise InputError("override", self.override, "is the class to forget; name another, or -1")
        self.critic = critic_of(self.teacher, self.student)
        self.begins = float(self.student.path.time(torch.tensor(self.start)))
        self.student.sampler = FewStep((self.begins,))

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "critic": list(self.critic.parameters())}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        kept, forgotten = self.kept(batch.y), torch.full_like(batch.y, self.forget)
        with torch.no_grad():
            x, x_f = (self.generate(batch, c) for c in (kept, forgotten))
        remain, forget = (
            denoising(self.critic, made, self.times(made), c).mean() for made, c in ((x, kept), (x_f, forgotten))
        )
        yield Update({"remain": remain, "forget": self.forget_weight * forget}, "critic")
        kept = self.kept(batch.y)
        safe = self.kept(batch.y) if self.override < 0 else torch.full_like(batch.y, self.override)
        remain = self.fisher(self.generate(batch, kept), kept, kept)
        forget = self.fisher(self.generate(batch, forgotten), safe, forgotten)
        yield Update({"remain": remain, "forget": self.forget_weight * forget})

    def kept(self, y: Tensor) -> Tensor:
        """As many random labels, of all classes but the forgotten one."""
        c = torch.randint(len(self.teacher.classes) - 1, y.shape, device=y.device)
        return c + (c >= self.forget).to(c)

    def generate(self, batch: Samples, c: Tensor) -> Tensor:
        """The generator's samples of these classes from fresh noise, with gradient."""
        return produce(self.student, torch.randn_like(batch.x), c, self.begins)

    def times(self, x: Tensor) -> Tensor:
        """Times uniform on DDPM's grid, at the same noise on the model's path."""
        return self.teacher.path.time(VP().ratio(uniform_times(x, self.t_min, self.t_max)))

    def fisher(self, x: Tensor, asked: Tensor, told: Tensor) -> Tensor:
        """The projected Fisher divergence of x, made for ``told``, to what the teacher makes of ``asked``."""
        t = self.times(x)
        x_t = self.teacher.path.noised(x, torch.randn_like(x), t)
        with still(self.critic):
            real, fake = self.teacher(x_t, t, asked).x0, self.critic(x_t, t, told).x0
        return (fisher(x, real, fake, self.alpha) / distance(x, real, 1e-5).flatten()).mean()
