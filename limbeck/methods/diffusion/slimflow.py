"""SlimFlow: training smaller one-step diffusion models with rectified flow (Zhu, Liu & Liu, 2024).
https://arxiv.org/abs/2407.12718

    pairs        x1 = ODE[v_T](x0)                                                                of a large teacher
    reflow       z = sqrt(1 - b^2) x0 + b n,    L = E ||v(x_t, t) - (x1 - z)||^2,    x_t = t x1 + (1 - t) z
    distil       L = E D(x1, x0 + v(x0, 0)) + E D(sg x1', n + v(n, 0))
                 x_s = n + s v_2(n, 0),    x1' = x_s + (1 - s) v_2(x_s, s),    s ~ U(0.2, 0.8)

A small student cannot take over the teacher's weights. Annealing makes its start easy: at b = 1 the pairs are forgotten
and it learns a flow; b falls to 0, plain reflow. The straight flow v_2 that results guides the last stage, in two steps
from fresh noise n, beside the pairs. Times are the paper's here, noise at 0; in the code noise is at 1.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Setting, roles
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.methods.diffusion._pairs import Reflow, pairs
from limbeck.methods.diffusion._shared import produce, uniform_times
from limbeck.models.conversion import on_path
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.path import Flow
from limbeck.models.sampling import FewStep, Ode

CARD = Card(
    key="slimflow",
    title="SlimFlow: Training Smaller One-Step Diffusion Models with Rectified Flow",
    authors="Yuanzhi Zhu, Xingchao Liu, Qiang Liu",
    year=2024,
    url="https://arxiv.org/abs/2407.12718",
    repo="https://github.com/yuanzhi-zhu/SlimFlow",
    family="diffusion",
    summary="A small fresh student learns a teacher's straightened flow, the pairing annealed in, then one step of it.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="labels",
    loop="pipeline",
    fidelity="reconstruction",
    notes="Of the training set only the labels are read. Assumed: how the steps are shared between the stages, and "
    "over what share of the first b falls. The paper's last models take D to be LPIPS, which needs a pretrained "
    "network of natural images and is left out, as are flips of noise and image together.",
)


class SlimFlow(Method):
    """One step learnt from a teacher's pairs and from two steps of the student's own straightened flow."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    share: Fraction = 0.5
    """Share of the run's steps that reflow takes."""
    anneal: Fraction = 0.5
    """Share of reflow over which b falls evenly from 1 to 0; 0 is plain reflow."""
    guide: NonNegative = 1.0
    """Weight of the two-step guide; 0 distils the pairs alone."""
    pairs: Count | None = None
    """How many; left out, as many as the training set has samples. Paper: 50 000 to 500 000."""
    steps: Count = 25
    """Steps of DPM-Solver++ that make them."""
    guidance: NonNegative = 1.0
    """The teacher's classifier-free guidance, off at 1."""
    distance: Literal["l2", "l1"] = "l2"
    """D."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.student = on_path(self.student, Flow())
        self.student.sampler = FewStep((1.0,))
        self.flow = freeze(copy.deepcopy(self.student))

    def loss(self, batch: Samples, clock: Clock) -> dict[str, Tensor]:
        assert batch.noise is not None
        terms = {"distil": self.apart(produce(self.student, batch.noise, batch.y), batch.x)}
        if self.guide > 0:
            n = torch.randn_like(batch.x)
            target = self.two_steps(n, batch.y, uniform_times(n, 0.2, 0.8))
            terms["guide"] = self.guide * self.apart(produce(self.student, n, batch.y), target)
        return terms

    @torch.no_grad()
    def two_steps(self, n: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """x1' (B, ...) of two Euler steps of the straightened flow that meet at the times t = 1 - s (B,)."""
        return self.flow(self.flow(n, 1.0, y).at(t), t, y).x0

    def apart(self, a: Tensor, b: Tensor) -> Tensor:
        """D, averaged."""
        return (a - b).abs().mean() if self.distance == "l1" else (a - b).square().mean()

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Pairs, annealing reflow of the student, and its distillation into one step."""
        method = cls(**roles(cls, setting), **values)
        data, first, anneal = setting.data, round(method.share * setting.steps), method.anneal
        teacher, count = Guided(method.teacher, method.guidance), method.pairs or len(data.data)
        made = data.with_data(pairs(teacher, data.data, count, sampler=Ode(method.steps, "dpm2m"), seed=data.seed))
        beta = (lambda clock: max(0.0, 1 - clock.fraction / anneal)) if anneal else 0.0
        setting.fit(Reflow(method.student, beta=beta), name="reflow", data=made, steps=first)
        method.flow.load_state_dict(method.student.state_dict())
        setting.fit(method, name="distil", data=made, steps=setting.steps - first)
        return method.student
