"""Training without a teacher: denoising diffusion (Ho, Jain & Abbeel, 2020), flow matching (Lipman et al., 2023).

    L = E_{x, t, eps} ||target_theta(alpha_t x + sigma_t eps, t, y) - target||^2
    https://arxiv.org/abs/2006.11239

with the noise, the v or the velocity as target (https://arxiv.org/abs/2210.02747). This is the control that every
distilled sampler is held against, and how the teachers here were made: a share of the labels is left out, so that
the model can be guided (https://arxiv.org/abs/2207.12598).
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method
from limbeck.data.samples import Samples
from limbeck.methods.diffusion._shared import Target, denoising, uniform_times, without_labels
from limbeck.models.denoiser import Denoiser

CARD = Card(
    key="denoising",
    title="Denoising Diffusion Probabilistic Models",
    authors="Jonathan Ho, Ajay Jain, Pieter Abbeel",
    year=2020,
    url="https://arxiv.org/abs/2006.11239",
    family="diffusion",
    summary="Trains a diffusion or flow model on data alone; the control of this family.",
    modality="diffusion",
    teacher="none",
    data="labelled",
    signal="none",
    notes="Flow matching (Lipman et al., 2023) is the same loss on the straight path with the velocity as target.",
)


class Denoising(Method):
    """Mean squared error in a stated target at random times."""

    student: Denoiser
    _: KW_ONLY
    target: Target = "velocity"
    """What the error is measured in: it decides how the times weigh. Ho et al. use ``eps``, flow matching
    ``velocity``."""
    times: Literal["uniform", "logit_normal"] = "uniform"
    """How times are drawn: uniformly, or as a sigmoid of a standard normal (Esser et al., 2024)."""
    unlabelled: Fraction = 0.1
    """Share of the labels left out, so that the model can be guided. 0.1 to 0.2 in the literature."""

    def loss(self, batch: Samples, clock: Clock) -> dict[str, Tensor]:
        t = uniform_times(batch.x, 0.0, 1.0)
        if self.times == "logit_normal":
            t = torch.sigmoid(torch.randn_like(t))
        y = without_labels(batch.y, self.unlabelled)
        return {"denoising": denoising(self.student, batch.x, t, y, target=self.target).mean()}
