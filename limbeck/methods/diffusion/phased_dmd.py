"""Phased DMD: few-step distribution matching by score matching within subintervals (Fan et al., 2025).
https://arxiv.org/abs/2510.27684

The way from noise is cut into phases, 1 = t_0 > t_1 > ... > t_K = 0, an expert each, trained one after the other. Phase
k runs the earlier experts and its own up to x_s, s = t_k, *not* to a clean sample, noises that further, and matches
distributions there:

    x_t         = alpha_{t|s} x_s + sigma_{t|s} eps,   t ~ U(s, 1)        the kernel between two times, not from 0
    grad L_G    = E w_{t|s} (T(x_t, t) - F(x_t, t)) dx_s / dphi           w_{t|s} = alpha_t alpha_{t|s}
                                                                                    / (alpha_t sigma_t + sigma_t^2)
    v*          = (alpha_s^2 sigma_t + alpha_t sigma_s^2) / (alpha_s^2 sigma_{t|s}) eps - x_s / alpha_s
    L_F         = min(1 / sigma_{t|s}^2, 10) ||sigma_{t|s} (F(x_t, t) - v*)||^2

T and F are the velocities of teacher and critic. The posterior mean of v* is the marginal velocity eps - x0 of the
student's process, though no clean sample is at hand; ``eps - x_s`` would be biased. At s = 0, v* is eps - x0.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, NonNegative, Positive, Setting, Update, roles
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.losses.score import follow
from limbeck.methods.diffusion._shared import critic_of, still, trainable
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.path import Flow, Path, wide
from limbeck.models.routed import ByTime, routed
from limbeck.models.sampling import FewStep, solve

CARD = Card(
    key="phased_dmd",
    title="Phased DMD: Few-step Distribution Matching Distillation via Score Matching within Subintervals",
    authors="Xiangyu Fan, Zesong Qiu, Zhuguanyu Wu, Fanzhou Wang, Zhiqian Lin, Tianxiang Ren, Dahua Lin, Ruihao Gong, "
    "Lei Yang",
    year=2025,
    url="https://arxiv.org/abs/2510.27684",
    repo="https://github.com/ModelTC/Wan2.2-Lightning",
    family="diffusion",
    summary="Experts for parts of the noise range, trained in turn to match distributions where their part ends.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="probabilities",
    loop="generations",
    needs=("probabilities",),
    stationary=("matching",),
    notes="On the flow path, as in the paper. An expert is a whole network that begins as the teacher where the run's "
    "student has its shape, else as the run's student; the paper's are adapters. Each phase takes a full run's steps. "
    "The lower end of t is kept a margin above s.",
)


def target(path: Path, x_s: Tensor, eps: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """v* of the module's docstring, (B, ...), at times (B,); for the flow path, whose velocity is ``eps - x0``."""
    a_s, s_s, a_t, s_t = path.alpha(s), path.sigma(s), path.alpha(t), path.sigma(t)
    _, between = path.kernel(s, t)
    scale = (a_s.square() * s_t + a_t * s_s.square()) / (a_s.square() * between)
    return wide(scale, x_s) * eps - wide(1 / a_s, x_s) * x_s


class PhasedDMD(Method):
    """One phase: the expert that learns, and the frozen ones before it."""

    student: Denoiser
    teacher: Denoiser
    earlier: nn.ModuleList | None = None
    _: KW_ONLY
    ends: tuple[float, ...] = (0.5, 0.0)
    """Times t_1 ... t_K at which the phases end, falling to 0. Paper: two phases."""
    steps: Count = 2
    """Steps of a phase. Paper: four in two phases."""
    guidance: NonNegative = 1.0
    """The teacher's classifier-free guidance, off at 1."""
    ratio: Count = 5
    """Steps of the critic for one of the expert. Paper: 5."""
    margin: Positive = 0.02
    """How far above the phase's end, and below 1, samples are noised to at least."""
    largest: Positive = 10.0
    """The critic's weight ``1 / sigma_{t|s}^2`` at most. Paper: 10."""

    def __post_init__(self) -> None:
        if not self.ends or self.ends[-1] != 0 or list(self.ends) != sorted(set(self.ends), reverse=True):
            raise InputError("ends", self.ends, "must fall to 0, as 0.5, 0 does")
        if self.ends[0] >= 1 - 2 * self.margin:
            raise InputError("ends", self.ends, "must begin below 1")
        if not isinstance(self.teacher.path, Flow):
            raise InputError("teacher", type(self.teacher.path).__name__, "is its path; this method needs a flow")
        freeze(self.teacher)
        self.earlier = freeze(nn.ModuleList() if self.earlier is None else self.earlier)
        self.critic = critic_of(self.teacher, self.student)  # anew in every phase

    @property
    def phase(self) -> tuple[float, float]:
        """Where the phase begins and ends."""
        assert self.earlier is not None
        k = len(self.earlier)
        return (1.0, *self.ends)[k], self.ends[k]

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "critic": list(self.critic.parameters())}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        if clock.step % self.ratio == 0:
            yield Update({"matching": self.matching(self.generate(batch), batch.y)})
        with torch.no_grad():
            x_s = self.generate(batch)
        yield Update({"subinterval": self.fitting(x_s, batch.y).mean()}, "critic")

    def generate(self, batch: Samples) -> Tensor:
        """The state x_s at the phase's end, the gradient through its last step alone."""
        assert self.earlier is not None
        x, begin = self.student.prior(torch.randn_like(batch.x)), 1.0
        with torch.no_grad():
            for expert, end in zip(self.earlier, self.ends, strict=False):
                x = solve(expert, x, even(begin, end, self.steps), batch.y)[-1]
                begin = end
            *times, last, s = even(*self.phase, self.steps)
            x = solve(self.student, x, [*times, last], batch.y)[-1]
        return solve(self.student, x, [last, s], batch.y)[-1]

    def noised(self, x_s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States at random times above the phase's end: x_t, the noise, s (B,) and t (B,)."""
        end = self.phase[1]
        s, eps = torch.full((len(x_s),), end, device=x_s.device), torch.randn_like(x_s)
        t = end + self.margin + (1 - end - 2 * self.margin) * torch.rand_like(s)
        return self.teacher.path.renoised(x_s, eps, s, t), eps, s, t

    def matching(self, x_s: Tensor, y: Tensor) -> Tensor:
        """The gradient of the reverse KL divergence at x_s, as a loss."""
        path = self.teacher.path
        with torch.no_grad(), still(self.critic):
            x_t, _, s, t = self.noised(x_s)
            real, fake = Guided(self.teacher, self.guidance)(x_t, t, y).velocity, self.critic(x_t, t, y).velocity
            a, b = path.alpha(t), path.sigma(t)
            weight = a * path.kernel(s, t)[0] / (a * b + b.square())
            gap = wide(weight, x_s) * (real - fake)
        return follow(x_s, gap).mean()

    def fitting(self, x_s: Tensor, y: Tensor) -> Tensor:
        """The critic's loss a sample, (B,)."""
        x_t, eps, s, t = self.noised(x_s.detach())
        _, between = self.teacher.path.kernel(s, t)
        weight = between.square() * (1 / between.square()).clamp(max=self.largest)
        apart = self.critic(x_t, t, y).velocity - target(self.teacher.path, x_s.detach(), eps, s, t)
        return weight * apart.square().flatten(1).mean(1)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """All phases in turn; the experts as one model, each for its own times."""
        made, experts = roles(cls, setting), list[Denoiser]()
        start = made.pop("student")
        for _ in values.get("ends", cls.ends):
            method = cls(trainable(start), earlier=nn.ModuleList(experts), **made, **values)
            setting.fit(method, name=f"phase-{len(experts) + 1}")
            experts.append(method.student)
        times, begin = list[float](), 1.0
        for end in method.ends:
            times += even(begin, end, method.steps)[:-1]
            begin = end
        student = routed(experts, ByTime([e.net for e in experts], method.ends[:-1]))
        student.sampler = FewStep(tuple(times), gamma=0.0)
        return student.requires_grad_(True).train()


def even(begin: float, end: float, steps: int) -> list[float]:
    """``steps + 1`` even times from one to the other."""
    return [begin + (end - begin) * k / steps for k in range(steps + 1)]
