"""Wasserstein contrastive representation distillation (Chen, Wang, Gan, Liu, Henao & Carin, 2021; arXiv 2020).
https://arxiv.org/abs/2012.08674

    g(t, s) = exp(f_T(t) . f_S(s) / tau) / (exp(f_T(t) . f_S(s) / tau) + M / N),    f_T, f_S of Lipschitz constant 1
    L_GCKT  = - E_pos log g - M E_neg log(1 - g)                                    (global, dual form)
    L_LCKT  = <P*, C>,  C_ij = 1 - cos(t_i, s_j),  P* = argmin <P, C> - eps H(P)    (local, primal form)
    L       = CE + a KD + l_1 L_GCKT + l_2 L_LCKT

The global term contrasts each sample with M others from a memory of the whole training set; spectral normalisation of
its critic's layers stands for the Lipschitz constraint of the Kantorovich dual. The local one transports the batch.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Setting, Update
from limbeck.core.modules import Taps, freeze, gather
from limbeck.data.batches import Images
from limbeck.losses.contrastive import nce_bank
from limbeck.losses.divergence import distil_kl
from limbeck.losses.transport import matching_cost
from limbeck.models.classifier import Classifier

CARD = Card(
    key="wcord",
    title="Wasserstein Contrastive Representation Distillation",
    authors="Liqun Chen, Dong Wang, Zhe Gan, Jingjing Liu, Ricardo Henao, Lawrence Carin",
    year=2020,
    url="https://arxiv.org/abs/2012.08674",
    family="classification",
    summary="The student's embedding of a sample is told from those of other samples, and batches are matched by "
    "optimal transport.",
    modality="image",
    teacher="frozen",
    signal="features",
    needs=("features", "logits"),
    vanishes=("kd",),
    fidelity="reconstruction",
    notes="Assumed: the weight of the local term, its epsilon and iterations, and that the memory is CRD's: one bank a "
    "network, each with the other's queries, and a normaliser from the first batch. Negatives are drawn from all other "
    "samples, whatever their class; they are as many as the training set has when that is fewer.",
)


class WCoRD(Method):
    """Contrast with a memory bank and transport within the batch, beside labels."""

    student: Classifier
    teacher: Classifier
    _: KW_ONLY
    examples: Count = 1
    """Rows of the training set, hence of the memory. A run fills this in."""
    global_weight: NonNegative = 0.8
    """l_1, weight of the contrast with the memory."""
    local_weight: NonNegative = 0.05
    """l_2, weight of the transport cost. Paper: about 0.01 to 0.1."""
    kd: NonNegative = 0.0
    """a, weight of Hinton's soft term at temperature 4."""
    negatives: Count = 16384
    """M, samples drawn from the memory for each of the batch."""
    width: Count = 128
    """Numbers in an embedding."""
    t: Positive = 0.07
    """tau, temperature of the critic."""
    momentum: Fraction = 0.5
    """Of the memory: the share of a row that stays when its sample is seen."""
    epsilon: Positive = 0.05
    """Entropy of the transport plan, in units of the cost."""
    iterations: Count = 50
    """Sinkhorn iterations."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        pairs = ((self.student, "student"), (self.teacher, "teacher"))
        self.taps = {name: Taps(model.head + ":in") for model, name in pairs}
        self.heads = nn.ModuleDict()
        for model, name in pairs:
            [shape], device = self.taps[name].shapes(model, model.example), model.example.device
            self.heads[name] = spectral_norm(nn.Linear(shape[-1], self.width, device=device))
            memory = F.normalize(torch.randn(self.examples, self.width, device=device), dim=1)
            self.register_buffer(f"{name}_memory", memory)
            self.register_buffer(f"{name}_log_z", torch.full((), torch.nan, device=device))

    def contrast(self, u: Tensor, memory: Tensor, log_z: Tensor, index: Tensor) -> Tensor:
        """L_GCKT (B,) of unit queries (B, D) whose positives are their own rows of a memory (N, D)."""
        N, rest = len(memory), max(len(memory) - 1, 1)
        drawn = torch.randint(rest, (len(u), min(self.negatives, rest)), device=u.device)
        drawn = (drawn + (drawn >= index[:, None])).clamp_max(N - 1)  # any row but the sample's own
        scores = u @ memory.T / self.t
        others = scores.gather(1, drawn)
        if log_z.isnan():  # CRD: the critic's mean is 1 / N on the first batch
            log_z.copy_(others.detach().logsumexp((0, 1)) - math.log(others.numel()) + math.log(N))
        return nce_bank(scores.gather(1, index[:, None])[:, 0] - log_z, others - log_z, others.shape[1] / N)

    def updates(self, batch: Images, clock: Clock) -> Generator[Update, bool, None]:
        with torch.no_grad():
            z_t, [f_t] = self.taps["teacher"](self.teacher, batch.teacher_x)
        z_s, [f_s] = self.taps["student"](self.student, batch.x)
        s = F.normalize(self.heads["student"](f_s), dim=1)
        t = F.normalize(self.heads["teacher"](f_t), dim=1)
        one = self.contrast(s, self.teacher_memory, self.teacher_log_z, batch.index)
        other = self.contrast(t, self.student_memory, self.student_log_z, batch.index)
        yield Update({
            "ce": F.cross_entropy(z_s, batch.y),
            "kd": self.kd * distil_kl(z_s, z_t, 4.0).mean(),
            "global": self.global_weight * (one + other).mean(),
            "local": self.local_weight * matching_cost(s, t, self.epsilon, self.iterations),
        })  # fmt: skip
        rows = gather(batch.index)
        for memory, now in ((self.student_memory, gather(s)), (self.teacher_memory, gather(t))):
            memory[rows] = F.normalize(self.momentum * memory[rows] + (1 - self.momentum) * now, dim=1)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """One fit, with memories as long as the training set."""
        [teacher] = setting.teachers
        method = cls(setting.student(), teacher, **{**values, "examples": len(setting.data.dataset)})
        setting.fit(method)
        return method.student
