"""BD-KD: balancing the divergences for online knowledge distillation (Amara et al., 2022).

https://arxiv.org/abs/2212.12965

    L_S = CE(y, z_S) + tau^2 mean_n [ w_f(n) KL(p_T || p_S) + w_r(n) KL(p_S || p_T) ]
    L_T = CE(y, z_T) + tau^2 mean_n KL(p_S || p_T)

Both networks learn from scratch together, each taking the other as a constant. Where the student is the more confident
of the two, H(p_S) < H(p_T), w_f = delta and w_r = 1: the forward divergence spreads it. Elsewhere w_f = 1 and
w_r = delta: the reverse one sharpens it.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Method, Positive, Update
from limbeck.data.batches import Images
from limbeck.losses.divergence import entropy, kl, soft_log

CARD = Card(
    key="bd_kd",
    title="BD-KD: Balancing the Divergences for Online Knowledge Distillation",
    authors="Ibtihel Amara, Nazanin Sepahvand, Brett H. Meyer, Warren J. Gross, James J. Clark",
    year=2022,
    url="https://arxiv.org/abs/2212.12965",
    family="classification",
    summary="A large and a small network learn together; each sample decides whether the small one is spread or "
    "sharpened towards the large one.",
    modality="image",
    teacher="online",
    signal="logits",
    loop="online",
    needs=("logits",),
    fidelity="reconstruction",
    notes="The paper has no code. Assumed: the two-valued weights, delta = 2, tau = 4, entropies at tau, weight 1 of "
    "every term. The teacher is trained on a copy, from whatever weights it has: name an untrained one to follow the "
    "paper.",
)


def balanced(log_s: Tensor, log_t: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """The weighted forward and reverse divergences (B,), (B,) of log-probabilities (B, K); weights have no gradient."""
    sharp = entropy(log_s.detach()) < entropy(log_t.detach())  # the student is the more confident
    forward, reverse = torch.where(sharp, delta, 1.0), torch.where(sharp, 1.0, delta)
    return forward * kl(log_t, log_s), reverse * kl(log_s, log_t)


class BDKD(Method):
    """Two networks that learn together, the student by both directions of the divergence."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    tau: Positive = 4.0
    """Temperature of both distributions."""
    delta: Positive = 2.0
    """Weight of the direction that the student's confidence asks for; 1 for the plain sum."""

    def __post_init__(self) -> None:
        # A copy: a run gives the same frozen network to all of its seeds.
        self.teacher = copy.deepcopy(self.teacher).requires_grad_(True)

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Both networks, each with its own optimiser."""
        return {name: list(getattr(self, name).parameters()) for name in ("student", "teacher")}

    def updates(self, batch: Images, clock: Clock) -> Generator[Update, bool, None]:
        s, t = self.student(batch.x), self.teacher(batch.teacher_x)  # both losses are of these two passes
        log_s, log_t = soft_log(s, self.tau), soft_log(t, self.tau)
        forward, reverse = balanced(log_s, log_t.detach(), self.delta)
        student = {
            "ce": F.cross_entropy(s, batch.y),
            "forward": self.tau**2 * forward.mean(),
            "reverse": self.tau**2 * reverse.mean(),
        }
        teacher = {
            "ce": F.cross_entropy(t, batch.y),
            "reverse": self.tau**2 * kl(log_s.detach(), log_t).mean(),
        }
        yield Update(student)
        yield Update(teacher, "teacher")
