"""DOT: a distillation-oriented trainer (Zhao, Cui, Song & Liang, 2023). https://arxiv.org/abs/2307.08436

    v_distil <- (mu + Delta) v_distil + g_distil
    v_task   <- (mu - Delta) v_task + g_task + weight decay * theta
    theta    <- theta - lr (v_task + v_distil)

The loss is KD's; what is new is the optimiser: SGD that keeps a momentum for the gradient of each term.
With Delta = 0 it is SGD with momentum mu.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, MakeOptimizer, Method, NonNegative, Positive
from limbeck.core.modules import freeze
from limbeck.data.batches import Images
from limbeck.errors import InputError
from limbeck.losses.divergence import distil_kl

CARD = Card(
    key="dot",
    title="DOT: A Distillation-Oriented Trainer",
    authors="Borui Zhao, Quan Cui, Renjie Song, Jiajun Liang",
    year=2023,
    url="https://arxiv.org/abs/2307.08436",
    repo="https://github.com/megvii-research/mdistiller",
    family="classification",
    summary="An optimiser for KD: the distillation's gradient keeps its momentum longer than the labels' gradient.",
    modality="image",
    teacher="frozen",
    signal="logits",
    needs=("logits",),
    vanishes=("distil",),
    notes="Needs SGD with momentum, and two backward passes a step; gradients cannot be clipped. Delta also moves the "
    "optimum: steady gradients act with the weights 1 / (1 - mu - Delta) and 1 / (1 - mu + Delta), so that at mu 0.9 "
    "the distillation counts 7 times as much as it says (Delta 0.075), 19 times at 0.09. The fair baseline is SGD on "
    "the re-weighted sum; see the evidence.",
)
TERMS = ("task", "distil")
Params = Iterable[Tensor] | Iterable[dict[str, Any]]


class SplitSGD(torch.optim.Optimizer):
    """SGD with a momentum of its own for the gradient of each of two terms, ``task`` and ``distil``.

    Call ``collect(term)`` after each term's ``backward`` and ``step`` when both are in. A parameter that only one term
    reaches has the plain momentum mu. Weight decay goes with the task's gradient, or with the only one. Groups may have
    their own ``lr``, ``momentum``, ``delta`` or ``weight_decay``; InputError when a momentum would leave [0, 1).
    """

    def __init__(
        self, params: Params, lr: float, momentum: float = 0.9, delta: float = 0.075, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay})
        for group in self.param_groups:
            mu, delta = group["momentum"], group["delta"]
            if not 0 <= mu - abs(delta) <= mu + abs(delta) < 1:
                raise InputError("delta", delta, f"must leave {mu:g} - delta and {mu:g} + delta in [0, 1)")

    def collect(self, term: str) -> None:
        """Take the gradients that are there as this term's; several batches of one step add up."""
        if term not in TERMS:
            raise ValueError(f"{term!r} is no term of this optimiser: {', '.join(TERMS)}")
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            state, name = self.state[p], f"{term} gradient"
            state[name] = p.grad if name not in state else state[name] + p.grad
            p.grad = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step by what was collected."""
        for group in self.param_groups:
            momenta = {"task": group["momentum"] - group["delta"], "distil": group["momentum"] + group["delta"]}
            for p in group["params"]:
                state = self.state[p]
                parts = {term: state.pop(f"{term} gradient") for term in TERMS if f"{term} gradient" in state}
                for number, (term, gradient) in enumerate(parts.items()):
                    if term not in state:
                        state[term] = torch.zeros_like(p)
                    v = state[term]
                    v.mul_(momenta[term] if len(parts) == 2 else group["momentum"]).add_(gradient)
                    if number == 0:
                        v.add_(p, alpha=group["weight_decay"])
                for term in parts:
                    p.sub_(state[term], alpha=group["lr"])


class DOT(Method):
    """KD whose two terms are optimised with different momenta."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    delta: NonNegative = 0.075
    """Added to the momentum of the distillation, taken from the labels'. Paper: 0.075 (CIFAR-100), 0.09 (ImageNet)."""
    tau: Positive = 4.0
    """Temperature of both distributions."""
    alpha: Fraction = 0.9
    """Share of the distillation in the loss."""

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def optimizers(self, make: MakeOptimizer) -> dict[str, torch.optim.Optimizer]:
        """:class:`SplitSGD` with the groups, rates, momenta and weight decays of the plain SGD that is made."""
        made = make(self.players()["student"])
        if not isinstance(made, torch.optim.SGD):
            raise InputError("optimizer", type(made).__name__, "has no momentum to split; DOT takes SGD with momentum")
        for option in ("nesterov", "dampening", "maximize"):
            if made.defaults[option]:
                raise InputError("optimizer", option, "is not defined for DOT; leave it out")
        taken = ("params", "lr", "momentum", "weight_decay")
        groups = [{name: group[name] for name in taken} for group in made.param_groups]
        return {"student": SplitSGD(groups, lr=made.defaults["lr"], delta=self.delta)}

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            t = self.teacher(batch.teacher_x)
        s = self.student(batch.x)
        distil = self.alpha * distil_kl(s, t, self.tau).mean()
        return {"task": (1 - self.alpha) * F.cross_entropy(s, batch.y), "distil": distil}
