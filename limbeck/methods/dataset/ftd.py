"""Minimizing the accumulated trajectory error to improve dataset distillation: flat trajectory distillation (Du et al.,
2022). https://arxiv.org/abs/2211.11004

    g = grad L(theta),   g_p = grad L(theta + rho g / ||g||),   g_orth = g - (g . g_p / ||g_p||^2) g_p
    theta*  <- theta* - eta (g_p - alpha g_orth)                                             the experts, on real images
    L       =  ||theta_N - theta*_{t+M}||_2^2 / ||theta*_t - theta*_{t+M}||_2^2              as in MTT
    xbar    <- d xbar + (1 - d) x~                                                           the images that are given

A network that is trained on the synthetic set does not start each piece where the expert did but where the last one
ended, and the error accumulates. Experts that keep to flat regions make the loss less sensitive to it. The images
are an exponential moving average.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

from torch import Tensor

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Setting, Update
from limbeck.core.modules import Ema
from limbeck.data.batches import Images
from limbeck.data.images import ImageSet
from limbeck.methods.dataset._shared import begun, drawn_seed, unrollable
from limbeck.methods.dataset._trajectories import averaged, changed, followed, gap
from limbeck.models.classifier import Classifier
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.trajectories import Flat, TrajectoryBank
from limbeck.models.use import Descent

CARD = Card(
    key="ftd",
    title="Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation",
    authors="Jiawei Du, Yidi Jiang, Vincent Y. F. Tan, Joey Tianyi Zhou, Haizhou Li",
    year=2022,
    url="https://arxiv.org/abs/2211.11004",
    repo="https://github.com/AngusDujw/FTD-distillation",
    family="dataset",
    summary="Matches the trajectories of experts that keep to flat regions, and averages the images.",
    modality="dataset",
    teacher="none",
    signal="none",
    loop="supervised",
    fidelity="reconstruction",
    notes="The experts' optimiser is GSAM's step at a constant radius, without its adaptive form; rho and alpha are "
    "recalled, not read. A bank of experts belongs to one training: MTT's is refused. The unrolled steps are replayed "
    "one at a time. The paper's average has a decay of 0.9995 over 5000 steps and more.",
)


class FlatTrajectories(Method):
    """Pixels and a step size whose training follows that of flat experts.

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
    span: Count = 2
    """M: moments that the expert has gone on for."""
    latest: Count = 10
    """T+: the first moment that no piece begins at."""
    rate: Positive = 0.01
    """Step size on the set at the start; it is learnt."""
    batch: Count = 100
    """Synthetic images a step; a smaller set is taken whole."""
    augment: str = "shift+rotate"
    """A, which is also used to train on the set."""
    how: Literal["real", "noise"] = "real"
    """What the images are at first."""
    experts: Count = 10
    """Experts; the paper's 100 to 200 are better."""
    expert_rate: Positive = 0.01
    """Their step size."""
    expert_batch: Count = 256
    """Their images a step."""
    rho: Positive = 0.01
    """How far away the experts look at the loss."""
    alpha: NonNegative = 0.3
    """Weight of the gap between the loss there and here."""
    per_epoch: Count = 1
    """Moments of an epoch at which their parameters are kept."""
    decay: Fraction = 0.99
    """d; 0.99 is for some hundreds of steps, the paper's is 0.9995."""
    bank: str = ""
    """Folder that keeps them for other runs; none for memory."""

    def __post_init__(self) -> None:
        unrollable(self.net)
        self.change = changed(self.augment, self.real.shape)
        use = Descent(augment=self.augment, own_rate=True)
        self.student: SyntheticSet = begun(self.real, self.per_class, how=self.how, rates=[self.rate], use=use)
        self.trajectories = TrajectoryBank(
            self.net, self.real, experts=self.experts, length=self.latest + self.span, per_epoch=self.per_epoch,
            training=Flat(self.expert_rate, self.rho, self.alpha, self.expert_batch), seed=drawn_seed(),
            folder=self.bank,
        )  # fmt: skip
        self.average = Ema(self.student.images, self.decay)

    def loss(self, batch: Images, clock: Clock) -> Mapping[str, Tensor]:
        return {"match": followed(self, lambda thetas, piece: gap(thetas[-1], piece))}

    def updates(self, batch: Images, clock: Clock) -> Generator[Update, bool, None]:
        if (yield Update(self.loss(batch, clock))):
            self.average.update(self.student.images)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> SyntheticSet:
        return averaged(cls, setting, values)
