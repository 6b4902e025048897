"""Invertible consistency distillation for text-guided image editing (Starodubcev et al., 2024).
https://arxiv.org/abs/2406.14539

Two students of one guided teacher on the same segments of time: the *reverse* one decodes, jumping from x_t down to
the nearest edge b of its segment, and the *forward* one encodes, jumping up to the edge above; Psi is one DDIM step of
the teacher, guided with w for decoding and never for encoding. f(x_t, t -> b) = alpha_b x0(x_t) + sigma_b eps(x_t)

    L_r   = H(f_r(x_t, t -> b), sg f_r(Psi_w(x_t, t -> t - d), t - d -> b)),   the state itself where t - d = b
    L_f   = H(f_f(x_t, t -> b), sg f_f(Psi_0(x_t, t -> t + d), t + d -> b))
    L_pf  = 1.5 H(f_f(sg f_r(x_b, b -> b'), b' -> b), x_b)                     decoded and encoded again
    L_pr  = 1.5 H(f_r(sg f_f(x_b', b' -> b), b -> b'), x_b')                   encoded and decoded again

with H the pseudo-Huber loss; each has an optimiser step of its own. In editing the guidance is dynamic: off above a
noise level tau, where it would spoil the inversion.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, NonNegative, Positive, Update
from limbeck.core.modules import eval_mode, freeze
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.losses.score import pseudo_huber
from limbeck.methods.diffusion._jumps import above, below, consistency
from limbeck.methods.diffusion._shared import critic_of
from limbeck.models.denoiser import Denoiser, Guided

CARD = Card(
    key="icd",
    title="Invertible Consistency Distillation for Text-Guided Image Editing in Around 7 Steps",
    authors="Nikita Starodubcev, Mikhail Khoroshikh, Artem Babenko, Dmitry Baranchuk",
    year=2024,
    url="https://arxiv.org/abs/2406.14539",
    repo="https://github.com/yandex-research/invertible-cd",
    family="diffusion",
    summary="A decoder and an encoder of four steps each, tied by what goes round coming back.",
    modality="diffusion",
    teacher="frozen",
    data="labelled",
    signal="features",
    loop="alternating",
    notes="The student is the decoder; the encoder, a copy of the teacher at first, is the method's `encoder`, used "
    "by `encode` from Python. A student whose network is told a number is told its guidance, drawn from `scales`; one "
    "that is told none learns the first of them. The teacher is guided as it is; the paper first makes it a network "
    "that is told w. As in the code the first grid time stands for 0 wherever something is encoded.",
)


@dataclass(frozen=True)
class Decode:
    """Deterministic steps between the edges of segments, with dynamic guidance for networks that are told it.

    Args:
        times: falling.
        scale: guidance where the time is at most ``tau``; 0 above it.
        tau: 0.7 to 0.8 in editing; 1 guides throughout.
        told: whether the network is told a guidance.
    """

    times: tuple[float, ...]
    scale: float = 0.0
    tau: float = 0.8
    told: bool = False

    @property
    def nfe(self) -> int:
        return len(self.times)

    def __call__(
        self, model: Any, noise: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None, /
    ) -> Tensor:
        x = model.prior(noise, self.times[0])
        for t, s in itertools.pairwise((*self.times, 0.0)):
            w = self.scale if t <= self.tau else 0.0
            said = model(x, t, y, x.new_full((len(x), 1), w) if self.told else None)
            x = said.at(s) if s else said.x0
        return x


class ICD(Method):
    """A decoder and an encoder between the edges of segments, each kept to the other's way."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    edges: tuple[float, ...] = (0.0, 0.26, 0.52, 0.78, 1.0)
    """Edges of the segments, rising from 0 to 1. Paper: endpoints 0, 259, 519, 779 and 999 of 1000."""
    grid: Count = 50
    """Equidistant times of the teacher's solver."""
    scales: tuple[float, ...] = (0.0, 7.0, 11.0, 15.0, 19.0)
    """Guidance scales w, c + w (c - u), that a decoder learns which is told w; any other learns the first."""
    preserve: NonNegative = 1.5
    """Weight of both round trips; 0 leaves them out."""
    huber: Positive = 1e-3
    """c of the pseudo-Huber loss."""
    scale: NonNegative = 7.0
    """Guidance that a decoder which is told one is sampled with."""
    tau: Positive = 0.8
    """Time above which sampling is without guidance. Paper: 0.7 to 0.8 in editing."""

    def __post_init__(self) -> None:
        places = tuple(round(edge * self.grid) for edge in self.edges)
        if self.edges[0] != 0 or self.edges[-1] != 1 or any(b - a < 2 for a, b in itertools.pairwise(places)):
            raise InputError("edges", self.edges, f"must rise from 0 to 1 by two steps of 1 / {self.grid} or more")
        freeze(self.teacher)
        self.places = places
        self.encoder = critic_of(self.teacher, self.student)
        falling = tuple(n / self.grid for n in reversed(places[1:]))
        self.student.sampler = Decode(falling, self.scale, self.tau, self.student.extras > 0)

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "encoder": list(self.encoder.parameters())}

    def updates(self, batch: Samples, clock: Clock) -> Generator[Update, bool, None]:
        yield Update({"reverse": self.reverse(batch)})
        yield Update({"forward": self.forward_(batch)}, "encoder")
        if self.preserve:
            yield Update({"forward_preserve": self.preserve * self.round_trip(batch, down_first=True)}, "encoder")
            yield Update({"reverse_preserve": self.preserve * self.round_trip(batch, down_first=False)})

    def reverse(self, batch: Samples) -> Tensor:
        """Consistency of the decoder with itself, one guided teacher step nearer to the edge below."""
        x, y = batch.x, batch.y
        n = torch.randint(1, self.grid + 1, (len(x),), device=x.device)
        t, near, b = n / self.grid, (n - 1) / self.grid, below(n, n.new_tensor(self.places)) / self.grid
        w: float | Tensor = self.scales[0]
        if self.student.extras:
            w = x.new_tensor(self.scales)[torch.randint(len(self.scales), (len(x),), device=x.device)]
        x_t = self.teacher.path.noised(x, torch.randn_like(x), t)
        with torch.no_grad():
            x_near = Guided(self.teacher, w, "from_conditional")(x_t, t, y).at(near)
        told = self.told(w, x)
        return self.apart(*consistency(self.student, self.student, x_t, x_near, t, near, b, y, told))

    def forward_(self, batch: Samples) -> Tensor:
        """Consistency of the encoder with itself, one unguided teacher step nearer to the edge above."""
        x, y = batch.x, batch.y
        n = torch.randint(1, self.grid, (len(x),), device=x.device)
        t, near, b = n / self.grid, (n + 1) / self.grid, above(n, n.new_tensor(self.places)) / self.grid
        x_t = self.teacher.path.noised(x, torch.randn_like(x), t)
        with torch.no_grad():
            x_near = self.teacher(x_t, t, y).at(near)
        return self.apart(*consistency(self.encoder, self.encoder, x_t, x_near, t, near, b, y))

    def round_trip(self, batch: Samples, *, down_first: bool) -> Tensor:
        """From an edge of a random segment to the other by one student (no gradient), and back by the other."""
        x, y = batch.x, batch.y
        k = torch.randint(len(self.places) - 1, (len(x),), device=x.device)
        places = k.new_tensor(self.places)
        low, high = places[k].clamp(min=1) / self.grid, places[k + 1] / self.grid
        here, there = (high, low) if down_first else (low, high)
        start = self.teacher.path.noised(x, torch.randn_like(x), here)
        with torch.no_grad():
            away = (self.decoded if down_first else self.encoded)(start, here, there, y)
        return self.apart((self.encoded if down_first else self.decoded)(away, there, here, y), start)

    def decoded(self, x: Tensor, t: Tensor, s: Tensor, y: Tensor | None) -> Tensor:
        """One jump of the decoder, without guidance."""
        return self.student(x, t, y, self.told(0.0, x)).at(s)

    def encoded(self, x: Tensor, t: Tensor, s: Tensor, y: Tensor | None) -> Tensor:
        """One jump of the encoder."""
        return self.encoder(x, t, y).at(s)

    def told(self, w: float | Tensor, x: Tensor) -> Tensor | None:
        """The guidance as a further number (B, 1), for a decoder that is told it."""
        if not self.student.extras:
            return None
        return w[:, None] if isinstance(w, Tensor) else x.new_full((len(x), 1), w)

    def apart(self, jumped: Tensor, goal: Tensor) -> Tensor:
        """The mean pseudo-Huber loss."""
        return pseudo_huber(jumped, goal, self.huber).mean()

    @torch.no_grad()
    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The noise (B, ...) of clean samples, from which :meth:`Denoiser.generate` makes them again."""
        with eval_mode(self.encoder):
            rising = x.new_tensor(self.places).clamp(min=1) / self.grid
            for t, s in itertools.pairwise(rising):
                x = self.encoded(x, t.expand(len(x)), s.expand(len(x)), y)
        return x / self.teacher.path.sigma(rising[-1])
