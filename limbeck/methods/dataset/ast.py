"""Efficient dataset distillation through alignment with smooth and high-quality expert trajectories (Shen et al.,
2023). https://arxiv.org/abs/2310.10541

    experts   L_e = c_e CE + lambda ||grad_theta CE||_2^2         SGD with momentum; c_e rises to 1 in the first epochs
    theta_0 = theta*_t (1 + a d / ||d||_F)                        a tensor at a time, d = dropout_{1/2}(N(0, I))
    v_{n+1} = mu v_n + b_t grad_theta CE(f(A(x_n); theta_n), y_n),     theta_{n+1} = theta_n - alpha v_{n+1}
    b_t     = log_5(t - T/2 + 8) where t >= T/2,  else 1 / log_5(T/2 - t + 8)
    L       = ||theta_N - theta*_{t+M}||^2 / ||theta*_t - theta*_{t+M}||^2  +  w L_aux
    L_aux   = sum_{m < M} ||theta_{m N / M} - theta*_{t+m}||^2 / ||theta*_t - theta*_{t+m}||^2       "trajectory", or
    L_aux   = sum_k sum_l MSE( mean_{x in S_k} h_l(x), mean_{x in T_k} h_l(x) ) at stopgrad(theta_N)  "features"

Experts that were trained well, with momentum and weight decay, move too fast early on to be followed. These are
smoothed where they are too fast, and the student's steps are weighed by how far the expert is: it moves little when
it is late. The synthetic images begin as the ones nearest to the centres of each class's clusters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Setting
from limbeck.core.modules import Taps
from limbeck.data.batches import Images
from limbeck.data.images import ImageSet
from limbeck.losses.matching import class_means
from limbeck.methods.dataset._shared import begun, distilled, drawn_seed, representative, unrollable
from limbeck.methods.dataset._trajectories import changed, gap, minibatches, segment
from limbeck.models.classifier import Classifier
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.trajectories import TrajectoryBank
from limbeck.models.unroll import Parameters, replay, start
from limbeck.models.use import Descent

CARD = Card(
    key="ast",
    title="Efficient Dataset Distillation through Alignment with Smooth and High-Quality Expert Trajectories",
    authors="Jiyuan Shen, Wenzhuo Yang, Kwok-Yan Lam",
    year=2023,
    url="https://arxiv.org/abs/2310.10541",
    repo="https://github.com/shenjiyuan123/AST-Alignment-with-Smooth-Expert",
    family="dataset",
    summary="Matches the trajectories of strong experts that were smoothed where they move too fast.",
    modality="dataset",
    teacher="none",
    signal="none",
    loop="supervised",
    fidelity="reconstruction",
    notes="The paper matches moments on the way (auxiliary=trajectory; which ones is assumed), its code the class "
    "means "
    "of features (auxiliary=features), has no gradient penalty and leaves the balanced loss out. The form of the "
    "penalty "
    "and its weight are assumed, and that the images begin by k-means on the features of an untrained network. The "
    "learning rate of the pixels is halved midway in the code; here it is the run's.",
)
COEFFICIENTS = (0.5, 0.5, 0.55, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)  # c_e of the first epochs


@dataclass(frozen=True)
class Smooth:
    """SGD with momentum, held back in the first epochs, and against steep places; slower in the second half.

    Args:
        rate: step size; 0.7 of it in the second half.
        momentum, weight_decay: of SGD.
        clipped: multiply the loss by :data:`COEFFICIENTS` in the first epochs.
        penalty: lambda.
        batch, augment: see :class:`limbeck.models.trajectories.Training`.
    """

    rate: float = 0.003
    momentum: float = 0.9
    weight_decay: float = 1e-3
    clipped: bool = True
    penalty: float = 0.001
    batch: int = 256
    augment: str = "none"

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(net.parameters(), self.rate, self.momentum, weight_decay=self.weight_decay)

    def step(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, *, epoch: int, epochs: int
    ) -> None:
        loss = F.cross_entropy(net(x), y)
        held = COEFFICIENTS[epoch] if self.clipped and epoch < len(COEFFICIENTS) else 1.0
        if self.penalty:
            slopes = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
            loss = held * loss + self.penalty * torch.stack([g.square().sum() for g in slopes]).sum()
        else:
            loss = held * loss
        for group in optimizer.param_groups:
            group["lr"] = self.rate * (0.7 if epoch > epochs // 2 else 1.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


class SmoothTrajectories(Method):
    """Pixels and a step size whose training follows that of smooth experts.

    Args:
        real: the images to stand for.
        net: the kind of network, without batch norm.
    """

    real: ImageSet
    net: Classifier
    _: KW_ONLY
    per_class: Count = 10
    """Synthetic images a class."""
    steps: Count = 10
    """N: steps on synthetic images; the paper's are 10 to 80."""
    momentum: Fraction = 0.9
    """mu: of the steps on synthetic images."""
    span: Count = 3
    """M: moments that the expert has gone on for."""
    latest: Count = 10
    """T+: the first moment that no piece begins at."""
    rate: Positive = 0.01
    """alpha at the start."""
    batch: Count = 100
    """Synthetic images a step; a smaller set is taken whole."""
    noise: NonNegative = 0.5
    """a: how far the start is disturbed; 0 for not."""
    balanced: bool = True
    """Weigh the steps by b_t; otherwise b_t = 1."""
    auxiliary: Literal["trajectory", "features", "none"] = "trajectory"
    """L_aux: the paper's, its code's, or none."""
    weight: NonNegative = 0.1
    """w."""
    align: Count = 64
    """Real images a class whose features are matched; the code's are 512."""
    augment: str = "shift+rotate"
    """A, which is also used to train on the set."""
    how: Literal["representative", "real", "noise"] = "representative"
    """What the images are at first: those nearest to as many centres, random ones, or noise."""
    experts: Count = 10
    """Experts; the paper's 100 to 200 are better."""
    expert_rate: Positive = 0.003
    """Their step size."""
    clipped: bool = True
    """c_e: hold them back in their first epochs."""
    penalty: NonNegative = 0.001
    """lambda: weight of their squared gradient."""
    expert_batch: Count = 256
    """Their images a step."""
    per_epoch: Count = 1
    """Moments of an epoch at which their parameters are kept."""
    bank: str = ""
    """Folder that keeps them for other runs; none for memory."""

    def __post_init__(self) -> None:
        unrollable(self.net)
        self.change = changed(self.augment, self.real.shape)
        use = Descent(augment=self.augment, own_rate=True)
        begin, how = self.real, self.how
        if how == "representative":
            begin, how = self.real.subset(representative(self.real, self.net, self.per_class)), "real"
        self.student: SyntheticSet = begun(begin, self.per_class, how=how, rates=[self.rate], use=use)
        training = Smooth(self.expert_rate, clipped=self.clipped, penalty=self.penalty, batch=self.expert_batch)
        self.trajectories = TrajectoryBank(
            self.net, self.real, experts=self.experts, length=self.latest + self.span, per_epoch=self.per_epoch,
            training=training, seed=drawn_seed(), folder=self.bank,
        )  # fmt: skip

    def loss(self, batch: Images, clock: Clock) -> Mapping[str, Tensor]:
        made = self.student
        assert made.rates is not None
        piece = segment(self.trajectories, self.latest, self.span)
        rate = made.rates[0] * (balance(piece.moment, self.latest) if self.balanced else 1.0)
        data = minibatches(made(), made.y, rate, size=self.batch, steps=self.steps, change=self.change)
        between = range(1, self.span) if self.auxiliary == "trajectory" else ()
        ways = {m: piece._replace(end=self.trajectories.at(piece.expert, piece.moment + m)) for m in between}
        last: list[Parameters] = []

        def left(thetas: list[Parameters]) -> Tensor:
            last.append({n: p.detach() for n, p in thetas[-1].items()})
            on_the_way = [gap(thetas[round(m * self.steps / self.span)], way) for m, way in ways.items()]
            return gap(thetas[-1], piece) + self.weight * sum(on_the_way, torch.zeros(()))

        terms = {"match": replay(self.net, start(disturbed(piece.begin, self.noise)), data, left, self.momentum)}
        if self.auxiliary == "features":
            terms["features"] = self.weight * self._features_apart(last[0], batch)
        return terms

    def _features_apart(self, theta: Parameters, batch: Images) -> Tensor:
        for name, p in self.net.named_parameters():
            p.copy_(theta[name])  # the template's own weights mean nothing
        taps, classes = Taps(*self.net.stages, f"{self.net.head}:in"), len(self.real.classes)
        with torch.no_grad():
            _, real = taps(self.net, batch.x)
        _, made = taps(self.net, self.student())
        gaps = [
            (class_means(m, self.student.y, classes) - class_means(r, batch.y, classes)).flatten(1).square().mean(1)
            for r, m in zip(real, made, strict=True)
        ]
        return torch.stack(gaps).sum()

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> SyntheticSet:
        return distilled(cls, setting, values, values.get("align", 64))


def balance(t: int, latest: int) -> float:
    """b_t: the inner loss is scaled up for late, slow pieces and down for early ones. A factor on the loss of every
    step is one on the step size, with momentum too."""
    half = latest / 2
    return math.log(t - half + 8, 5) if t >= half else 1 / math.log(half - t + 8, 5)


@torch.no_grad()
def disturbed(theta: Parameters, size: float) -> Parameters:
    """``theta (1 + a d / ||d||_F)``, a tensor at a time."""
    found: Parameters = {}
    for name, p in theta.items():
        d = F.dropout(torch.randn_like(p), 0.5)
        found[name] = p * (1 + size * d / d.norm().clamp(min=1e-12))
    return found
