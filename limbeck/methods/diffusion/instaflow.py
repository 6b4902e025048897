"""InstaFlow: one step is enough for high-quality diffusion-based text-to-image generation (Liu, Zhang, Ma, Peng & Liu,
2024). https://arxiv.org/abs/2309.06380

    pairs      x1 = ODE[v_T](x0 | y),    x0 ~ N(0, I)                                      from the teacher, guided
    reflow     L = E ||(x1 - x0) - v(x_t, t | y)||^2,    x_t = t x1 + (1 - t) x0             gives the straight flow v_2
    distil     L = E D(ODE[v_2](x0 | y), x0 + v(x0, 0 | y))                                from the same noises

Times are the paper's here, noise at 0; in the code noise is at 1, and v points to it. A teacher's pairs cross each
other: learnt in one step they blur. Reflow uncrosses them, and what is straight can be learnt in one step.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Annotated, Any, Literal

from annotated_types import Ge
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Setting, roles
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.losses.score import pseudo_huber
from limbeck.methods.diffusion._pairs import Reflow, pairs
from limbeck.methods.diffusion._shared import produce
from limbeck.models.conversion import on_path
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.path import Flow
from limbeck.models.sampling import FewStep, Ode

CARD = Card(
    key="instaflow",
    title="InstaFlow: One Step is Enough for High-Quality Diffusion-Based Text-to-Image Generation",
    authors="Xingchao Liu, Xiwen Zhang, Jianzhu Ma, Jian Peng, Qiang Liu",
    year=2024,
    url="https://arxiv.org/abs/2309.06380",
    repo="https://github.com/gnobitab/InstaFlow",
    family="diffusion",
    summary="Straightens a teacher's flow on the pairs of noise and sample it makes, then learns the straight flow in "
    "one step.",
    modality="diffusion",
    teacher="frozen",
    data="none",
    signal="labels",
    loop="pipeline",
    fidelity="reconstruction",
    notes="Of the training set only the labels are read. Assumed: how the steps are shared between the stages, and "
    "the share of labels left out. The second phase of the distillation, in LPIPS, is left out: it needs a pretrained "
    "network of natural images. The student should begin with the teacher's weights; a teacher on a curved path is "
    "read as a flow by matching signal-to-noise ratios.",
)


class InstaFlow(Method):
    """The distance in one step to where a straightened flow ends."""

    student: Denoiser
    teacher: Denoiser
    _: KW_ONLY
    rounds: Annotated[int, Ge(0)] = 1
    """Rounds of reflow before the distillation; 0 distils the teacher's own pairs, which the paper shows to fail."""
    share: Fraction = 0.5
    """Share of the run's steps that reflow takes, all rounds together."""
    pairs: Count | None = None
    """Pairs made a round; left out, as many as the training set has samples. Paper: 3.2 million."""
    steps: Count = 25
    """Steps of the ODE that makes them: DPM-Solver++ for the teacher, Euler for a straightened flow."""
    guidance: NonNegative = 1.0
    """The teacher's classifier-free guidance, off at 1. Paper: 6."""
    reguidance: NonNegative = 1.0
    """The straightened flow's, when the distillation's pairs are made. Paper: 1.5."""
    unlabelled: Fraction = 0.1
    """Share of the labels left out in reflow, so that its flow can be guided."""
    distance: Literal["l2", "pseudo_huber"] = "l2"
    """D of the distillation. Paper: squared, then LPIPS."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.student = on_path(self.student, Flow())
        self.student.sampler = FewStep((1.0,))

    def loss(self, batch: Samples, clock: Clock) -> dict[str, Tensor]:
        assert batch.noise is not None
        made = produce(self.student, batch.noise, batch.y)
        if self.distance == "pseudo_huber":
            return {"distil": pseudo_huber(made, batch.x, 0.01).mean()}
        return {"distil": (made - batch.x).square().mean()}

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Pairs, reflow, pairs of the straightened flow from the same noises, and the distillation."""
        method = cls(**roles(cls, setting), **values)
        data, count = setting.data, method.pairs or len(setting.data.data)
        straighten = round(method.share * setting.steps) if method.rounds else 0
        flow, sampler = Guided(method.teacher, method.guidance), Ode(method.steps, "dpm2m")
        for k in range(method.rounds):
            made = pairs(flow, data.data, count, sampler=sampler, seed=data.seed)
            part = straighten // method.rounds + (k < straighten % method.rounds)
            reflow = Reflow(method.student, unlabelled=method.unlabelled)
            setting.fit(reflow, name=f"reflow-{k + 1}", data=data.with_data(made), steps=part)
            flow, sampler = Guided(copy.deepcopy(method.student), method.reguidance), Ode(method.steps)
        made = pairs(flow, data.data, count, sampler=sampler, seed=data.seed)
        setting.fit(method, name="distil", data=data.with_data(made), steps=setting.steps - straighten)
        return method.student
