"""ProlificDreamer: high-fidelity and diverse text-to-3D generation with variational score distillation (Wang et al.,
2023). https://arxiv.org/abs/2305.16213

Particles theta_i, the parameters of pictures or scenes, move so that what they are rendered to, x = g(theta_i, c) seen
by the camera c, is distributed as the teacher's samples at every noise level:

    d theta_i / d tau = -E_{t, eps, c} [w(t) (eps_teacher(x_t, t, y) - eps_phi(x_t, t, y, c)) dg(theta_i, c) / dtheta_i]
    L_phi             = E ||eps_phi(alpha x + sigma eps, t, y, c) - eps||^2                      x without gradient

phi, the teacher with low-rank adapters, learns what the particles are now; only the teacher is guided,
eps(none) + s (eps(y) - eps(none)). Score distillation sampling (https://arxiv.org/abs/2209.14988) is the special case
of a single point, whose noise is known: eps_phi = eps. It ends near the modes and needs strong guidance.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Setting, Update
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.losses.score import follow
from limbeck.methods.diffusion._shared import denoising, still, trainable, uniform_times
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.low_rank import adapted
from limbeck.models.particles import Particles
from limbeck.models.path import wide

CARD = Card(
    key="prolificdreamer",
    title="ProlificDreamer: High-Fidelity and Diverse Text-to-3D Generation with Variational Score Distillation",
    authors="Zhengyi Wang, Cheng Lu, Yikai Wang, Fan Bao, Chongxuan Li, Hang Su, Jun Zhu",
    year=2023,
    url="https://arxiv.org/abs/2305.16213",
    repo="https://github.com/thu-ml/prolificdreamer",
    family="diffusion",
    summary="Pictures or scenes are optimised until a diffusion model takes them for its own samples.",
    makes="a set of particles, rendered to samples",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="probabilities",
    loop="alternating",
    needs=("weights",),
    notes="The student is a Particles; `distil` makes `particles` pictures that begin as noise, their labels in turn. "
    "Scenes need a renderer of your own. Give the two players their own rates: paper 1e-4 for phi, 1e-2 for a hash "
    "grid. A batch says how many particles move in a step, no batch moves all. The adapters' rank is assumed. The "
    "stages of the paper's mesh are runs of this method.",
)


class ProlificDreamer(Method):
    """One step of the particles, then one of the critic on what they are now."""

    student: Particles
    teacher: Denoiser
    _: KW_ONLY
    critic: Literal["learnt", "injected"] = "learnt"
    """What is set against the teacher: a model of the particles (VSD), or the injected noise (SDS)."""
    guidance: NonNegative = 7.5
    """The teacher's classifier-free guidance s, off at 1. Paper: 7.5; 100 for SDS."""
    rank: Annotated[int, Ge(0)] = 4
    """Rank of the critic's adapters; 0 for a whole copy of the teacher. Assumed."""
    particles: Count = 4
    """How many pictures a run makes. Paper: 1 to 4."""
    blind: Fraction = 0.1
    """Share of views that the critic is not told in its training. Paper: 0.1."""
    t_min: Fraction = 0.02
    """Earliest time the samples are noised to. Paper: 0.02."""
    t_max: Fraction = 0.98
    """Latest time at first. Paper: 0.98."""
    t_late: Fraction = 0.5
    """Latest time afterwards. Paper: 0.5."""
    late: Fraction = 0.2
    """Share of the run after which `t_late` holds. Paper: 5000 of 25000 steps."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.guided = Guided(self.teacher, self.guidance)
        self.fake: Denoiser | None = None
        if self.critic == "learnt":
            views = self.student.renderer.views
            base = self.teacher.told(views) if views else self.teacher
            self.fake = adapted(base, self.rank) if self.rank else trainable(base)

    def players(self) -> dict[str, list[nn.Parameter]]:
        found = {"student": [self.student.params]}
        if self.fake is not None:
            found["critic"] = [p for p in self.fake.parameters() if p.requires_grad]
        return found

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Pictures that begin as noise, in the teacher's shape."""
        if len(setting.teachers) != 1:
            raise InputError("teacher", len(setting.teachers), "teachers were given; this method takes exactly one")
        teacher = setting.teachers[0]
        assert isinstance(teacher, Denoiser)
        count = values.get("particles", cls.particles)
        y = torch.arange(count) % len(teacher.classes) if teacher.classes else None
        method = cls(Particles(teacher.noise(count), y), teacher, **values)
        setting.fit(method)
        return method.student

    def updates(self, batch: Samples | None, clock: Clock) -> Generator[Update, bool, None]:
        count = len(self.student) if batch is None else min(len(batch.x), len(self.student))
        index = torch.randperm(len(self.student), device=self.student.y.device)[:count]
        view, y = self.student.renderer.look(count), self.student.y[index]
        x = self.student(index, view)
        t = uniform_times(x, self.t_min, self.t_max if clock.fraction < self.late else self.t_late)
        yield Update({"matching": self.matching(x, t, torch.randn_like(x), y, view).mean()})
        if self.fake is not None:
            if view is not None:
                view = torch.where(torch.rand(count, 1, device=view.device) < self.blind, 0.0, view)
            learnt = denoising(self.fake, x, uniform_times(x, 0.0, 1.0), y, target="eps", extra=view)
            yield Update({"denoising": learnt.mean()}, "critic")

    def matching(self, x: Tensor, t: Tensor, eps: Tensor, y: Tensor, view: Tensor | None) -> Tensor:
        """``w(t) (eps_teacher - eps_phi)`` at x as a loss a sample, (B,); ``w(t) = sigma_t^2``."""
        path = self.teacher.path
        with torch.no_grad():
            x_t, said = path.noised(x, eps, t), eps
            if self.fake is not None:
                with still(self.fake):
                    said = self.fake(x_t, t, y, view).eps
            gap = wide(path.sigma(t).square(), x) * (self.guided(x_t, t, y).eps - said)
        return follow(x, gap)
