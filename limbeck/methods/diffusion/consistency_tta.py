"""ConsistencyTTA: accelerating diffusion-based text-to-audio generation with consistency distillation (Bai et al.,
2023). https://arxiv.org/abs/2309.10740

A latent consistency model that knows of guidance: one call of the network for one sample, of any latent. On 18 noise
levels, z_n+1 is a noised latent, z_n what one Heun step of the teacher makes of it, guided by w:

    eps_w = w eps(z, c) + (1 - w) eps(z, null)
    f_theta(z, t, w, c) = c_skip z + c_out F_theta(z, t, w, c),    c_skip = d^2 / (r^2 + d^2),  c_out^2 = 1 - c_skip
    L = min(SNR, gamma) ||f_theta(z_n+1, t_n+1, w, c) - sg f_theta-(z_n, t_n, w, c)||^2

where r = sigma / alpha and F is the clean latent that the network sees. Guidance is *variable* (w is drawn anew for
every sample and told to the student), *fixed*, or *direct* (the student learns without and is guided itself when
sampled, at twice the cost). Before, the student may learn to be guided, without any jump; after, since one call is
differentiable, what it makes may be scored: - rho R(f_theta(z_N), c).
"""

from __future__ import annotations

import itertools
from collections.abc import Generator
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Update
from limbeck.core.modules import Ema, freeze
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.methods.diffusion._shared import without_labels
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.path import EDM, wide
from limbeck.models.sampling import solve

CARD = Card(
    key="consistency_tta",
    title="ConsistencyTTA: Accelerating Diffusion-Based Text-to-Audio Generation with Consistency Distillation",
    authors="Yatong Bai, Trung Dang, Dung Tran, Kazuhito Koishida, Somayeh Sojoudi",
    year=2023,
    url="https://arxiv.org/abs/2309.10740",
    repo="https://github.com/Bai-YT/ConsistencyTTA",
    family="diffusion",
    summary="A consistency model that is told its guidance scale: one call a sample, and a reward may follow.",
    modality="diffusion",
    teacher="frozen",
    data="labelled",
    signal="features",
    loop="self",
    fidelity="reconstruction",
    notes="The released code has no c_skip and c_out: its network answers the clean latent, and data are the target "
    "at the lowest level; that is boundary=data. That the stages are shares of one run is assumed. A student whose "
    "network is told no number learns the fixed scale. The reward is any differentiable module of clean samples and "
    "labels (B,), such as a decoder with CLAP behind it, given from Python.",
)


def consistent(  # noqa: PLR0917 (the order of a call to the model, then d)
    model: nn.Module, z: Tensor, t: Tensor | float, y: Tensor | None, extra: Tensor | None, data: float
) -> Tensor:
    """``c_skip z + c_out F`` (B, ...), which is z itself where there is no noise; F alone for ``data`` 0."""
    said = model(z, t, y, extra)
    if not data:
        return said.x0
    skip = data**2 / (said.path.ratio(said.t).square() + data**2)
    return wide(skip, z) * z + wide((1 - skip).sqrt(), z) * said.x0


@dataclass(frozen=True)
class Query:
    """One call of a consistency model from pure noise, or a few with fresh noise between.

    Args:
        times: falling, from the highest noise level.
        data: standard deviation d of c_skip and c_out; 0 for a network that answers the clean sample.
        told: the guidance scale that the network is told, if any.
        direct: guidance of the student itself, off at 1.
    """

    times: tuple[float, ...]
    data: float = 0.5
    told: float | None = None
    direct: float = 1.0

    @property
    def nfe(self) -> int:
        return len(self.times)

    def __call__(
        self, model: Any, noise: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None, /
    ) -> Tensor:
        guided = Guided(model, self.direct)
        extra = None if self.told is None else noise.new_full((len(noise), 1), self.told)
        z = model.prior(noise, self.times[0])
        for t, s in itertools.pairwise(self.times):
            fresh = torch.randn(z.shape, generator=generator).to(z)
            clean = consistent(guided, z, t, y, extra, self.data)
            z = model.path.noised(clean, fresh, z.new_full((len(z),), s))
        return consistent(guided, z, self.times[-1], y, extra, self.data)


class ConsistencyTTA(Method):
    """Guidance learnt, then consistency on eighteen levels, then perhaps a reward."""

    student: Denoiser
    teacher: Denoiser
    reward: nn.Module | None = None
    _: KW_ONLY
    guidance: Literal["variable", "fixed", "direct"] = "variable"
    """How guidance gets into the student. Paper: variable is best, direct worst."""
    scale: NonNegative = 4.0
    """The scale w of sampling, and of a fixed guidance, off at 1. Paper: 4 to 5, and 3 where it is fixed."""
    scale_max: Positive = 6.0
    """Variable scales are uniform from 0 to this."""
    levels: Count = 18
    """Noise levels, on Karras' grid."""
    sigma_min: Positive = 0.03
    """Lowest noise level sigma / alpha; that of Stable Diffusion's table, as in the paper."""
    sigma_max: Positive = 14.6
    """Highest noise level, which stands for pure noise; that of Stable Diffusion's table, as in the paper."""
    boundary: Literal["skip", "data"] = "skip"
    """What holds the student where there is no noise: c_skip and c_out, or the data as target (released code)."""
    sigma_data: Positive = 0.5
    """Standard deviation d of the data, for c_skip and c_out."""
    snr_gamma: NonNegative = 5.0
    """Largest weight of a level, min(SNR, gamma); 0 weighs all levels alike, which the released code can too."""
    decay: Fraction = 0.95
    """Decay of the averaged student that makes the targets."""
    first: Fraction = 0.25
    """Share of the run in which the student learns the guided teacher's clean latent; assumed."""
    last: Fraction = 0.15
    """Share of the run, at its end, in which the reward is added, where one is given; assumed."""
    rho: NonNegative = 0.1
    """Weight of the reward. Released code: 0.1 beside a weight of 1."""
    unlabelled: Fraction = 0.1
    """Share of the labels left out where the student is guided directly."""

    def __post_init__(self) -> None:
        if self.levels < 2 or not self.sigma_min < self.sigma_max:
            raise InputError("levels", self.levels, "must be 2 or more, from sigma_min up to a larger sigma_max")
        freeze(self.teacher)
        if self.reward is not None:
            freeze(self.reward)
        karras = EDM(self.sigma_min, self.sigma_max).sigma(torch.linspace(0, 1, self.levels))
        self.grid = tuple(self.teacher.path.time(karras).clamp(0, 1).tolist())
        self.average = Ema(self.student, self.decay)
        self.variable = self.guidance == "variable" and self.student.extras > 0
        self.skip = self.sigma_data if self.boundary == "skip" else 0.0
        direct = self.scale if self.guidance == "direct" else 1.0
        self.sampler = Query(self.grid[-1:], self.skip, self.scale if self.variable else None, direct)
        self.student.sampler = self.sampler

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters())}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        w, told = self.scales(batch.x)
        guided = Guided(self.teacher, w)
        if clock.fraction < self.first and self.guidance != "direct":
            terms = {"guidance": self.guided(batch, guided, told)}
        else:
            terms = {"consistency": self.consistency(batch, guided, told)}
        if self.reward is not None and clock.fraction >= 1 - self.last:
            made = self.sampler(self.student, torch.randn_like(batch.x), batch.y)
            terms["reward"] = -self.rho * self.reward(made, batch.y).mean()
        if (yield Update(terms)):
            self.average.update(self.student)

    def scales(self, x: Tensor) -> tuple[float | Tensor, Tensor | None]:
        """The teacher's scales, and what the student is told of them (B, 1)."""
        if self.variable:
            w = self.scale_max * torch.rand(len(x), device=x.device)
            return w, w[:, None]
        return 1.0 if self.guidance == "direct" else self.scale, None

    def noised(self, batch: Samples) -> tuple[Tensor, Tensor]:
        """Latents (B, ...) at random levels n + 1 (B,), counted from 0; at the highest, pure noise."""
        above = torch.randint(1, self.levels, (len(batch.x),), device=batch.x.device)
        t, noise = self.level(above), torch.randn_like(batch.x)
        pure = wide(above == self.levels - 1, batch.x).bool()
        return torch.where(pure, self.teacher.prior(noise, t), self.teacher.path.noised(batch.x, noise, t)), above

    def level(self, n: Tensor) -> Tensor:
        """The times (B,) of levels n (B,), counted from 0."""
        return torch.tensor(self.grid, device=n.device)[n]

    def guided(self, batch: Samples, guided: nn.Module, told: Tensor | None) -> Tensor:
        """The first stage: the guided teacher's clean latent in one call, without a jump."""
        z, above = self.noised(batch)
        t = self.level(above)
        with torch.no_grad():
            goal = guided(z, t, batch.y).x0
        return self.weighed(self.student(z, t, batch.y, told).x0 - goal, t)

    def consistency(self, batch: Samples, guided: nn.Module, told: Tensor | None) -> Tensor:
        """The second stage: the same end from two levels of one trajectory."""
        z, above = self.noised(batch)
        t, near = self.level(above), self.level(above - 1)
        y = without_labels(batch.y, self.unlabelled) if self.guidance == "direct" else batch.y
        with torch.no_grad():
            z_near = solve(guided, z, [t, near], y, solver="heun")[-1]
            goal = consistent(self.average, z_near, near, y, told, self.skip)
            if self.boundary == "data":
                goal = torch.where(wide(above == 1, z).bool(), batch.x, goal)
        return self.weighed(consistent(self.student, z, t, y, told, self.skip) - goal, t)

    def weighed(self, apart: Tensor, t: Tensor) -> Tensor:
        """The mean of squared errors (B, ...) by the weights of their levels."""
        weight = torch.ones_like(t)
        if self.snr_gamma:
            weight = self.teacher.path.ratio(t).square().reciprocal().clamp(max=self.snr_gamma)
        return (weight * apart.square().flatten(1).mean(1)).mean()
