"""Dataset Distillation by Matching Training Trajectories (Cazenavette et al., 2022). https://arxiv.org/abs/2203.11932

    theta_0     = theta*_t                                                     an expert, at a random t < T+
    theta_{n+1} = theta_n - alpha grad_theta CE(f(A(x_n); theta_n), y_n)       n = 0 ... N - 1, x_n a synthetic batch
    L           = ||theta_N - theta*_{t+M}||_2^2 / ||theta*_t - theta*_{t+M}||_2^2

Experts are networks trained on the real images, whose parameters were kept after every epoch. N steps on the synthetic
images are to lead from where an expert was to where it came M epochs later. The gradient goes through all N steps
to the pixels and to the step size alpha; A is an augmentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

from torch import Tensor

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Method, Positive, Setting
from limbeck.data.batches import Images
from limbeck.data.images import ImageSet
from limbeck.methods.dataset._shared import begun, distilled, drawn_seed, unrollable
from limbeck.methods.dataset._trajectories import changed, followed, gap
from limbeck.models.classifier import Classifier
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.trajectories import Sgd, TrajectoryBank
from limbeck.models.use import Descent

CARD = Card(
    key="mtt",
    title="Dataset Distillation by Matching Training Trajectories",
    authors="George Cazenavette, Tongzhou Wang, Antonio Torralba, Alexei A. Efros, Jun-Yan Zhu",
    year=2022,
    url="https://arxiv.org/abs/2203.11932",
    repo="https://github.com/GeorgeCazenavette/mtt-distillation",
    family="dataset",
    summary="A few steps on the synthetic images lead a network where an expert came by epochs on the real ones.",
    modality="dataset",
    teacher="none",
    signal="none",
    loop="supervised",
    notes="Experts are trained when they are first asked for; with bank=FOLDER they are kept there for other runs. The "
    "unrolled steps are replayed one at a time (TESLA's way to constant memory). The step size is kept positive. The "
    "paper trains 100 to 200 experts and takes 5000 steps of SGD with momentum 0.5 at a rate of 1000 on the pixels and "
    "1e-5 on alpha, on ZCA-whitened CIFAR; here the optimiser is the run's.",
)


class MatchingTrajectories(Method):
    """Pixels and a step size whose training follows that on real images.

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
    """alpha at the start."""
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
    per_epoch: Count = 1
    """Moments of an epoch at which their parameters are kept."""
    bank: str = ""
    """Folder that keeps them for other runs; none for memory."""

    def __post_init__(self) -> None:
        unrollable(self.net)
        self.change = changed(self.augment, self.real.shape)
        use = Descent(augment=self.augment, own_rate=True)
        self.student: SyntheticSet = begun(self.real, self.per_class, how=self.how, rates=[self.rate], use=use)
        self.trajectories = TrajectoryBank(
            self.net, self.real, experts=self.experts, length=self.latest + self.span, per_epoch=self.per_epoch,
            training=Sgd(self.expert_rate, batch=self.expert_batch), seed=drawn_seed(), folder=self.bank,
        )  # fmt: skip

    def loss(self, batch: Images, clock: Clock) -> Mapping[str, Tensor]:
        return {"match": followed(self, lambda thetas, piece: gap(thetas[-1], piece))}

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> SyntheticSet:
        return distilled(cls, setting, values, 1)
