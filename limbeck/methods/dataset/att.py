"""Dataset distillation by automatic training trajectories (Liu et al., 2024). https://arxiv.org/abs/2407.14245

    theta_{n+1} = theta_n - alpha grad_theta CE(f(A(x_n); theta_n), y_n),   theta_0 = theta*_t        n = 0 ... N - 1
    n*          = argmin_{1 <= n <= N} ||theta_n - theta*_{t+M}||_1                                   the last of equals
    L           = ||theta_{n*} - theta*_{t+M}||_2^2 / ||theta*_t - theta*_{t+M}||_2^2

How many synthetic steps an expert's M epochs are worth differs from piece to piece; a fixed number forces the images to
fit it. N is only the longest way that is tried: what is matched is where the student came nearest.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, Positive, Setting, Update
from limbeck.core.modules import Ema
from limbeck.data.batches import Images
from limbeck.data.images import ImageSet
from limbeck.methods.dataset._shared import begun, drawn_seed, unrollable
from limbeck.methods.dataset._trajectories import Segment, averaged, changed, followed, gap
from limbeck.models.classifier import Classifier
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.trajectories import Flat, Sgd, TrajectoryBank
from limbeck.models.unroll import Parameters
from limbeck.models.use import Descent

CARD = Card(
    key="att",
    title="Dataset Distillation by Automatic Training Trajectories",
    authors="Dai Liu, Jindong Gu, Hu Cao, Carsten Trinitis, Martin Schulz",
    year=2024,
    url="https://arxiv.org/abs/2407.14245",
    repo="https://github.com/NiaLiu/ATT",
    family="dataset",
    summary="Matches an expert's trajectory with as many synthetic steps as bring the student nearest to it.",
    modality="dataset",
    teacher="none",
    signal="none",
    loop="supervised",
    notes="The nearest step is chosen by the sum of absolute differences, as in the authors' code, and no gradient "
    "reaches later ones; n* is logged: where it is often 1, the step size is too large. Experts are MTT's, or FTD's "
    "flat ones, and so is the moving average of the images, whose decay is 0.999 in the code over 5000 steps.",
)


class AutomaticTrajectories(Method):
    """Pixels and a step size whose training follows an expert's in as many steps as suit.

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
    """N: the most steps on synthetic images; the code's default is 20."""
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
    expert_kind: Literal["plain", "flat"] = "plain"
    """How they are trained: as in MTT, or as in FTD."""
    per_epoch: Count = 1
    """Moments of an epoch at which their parameters are kept."""
    decay: Fraction = 0.99
    """Of the images' moving average; 0.99 is for some hundreds of steps, the code's is 0.999."""
    bank: str = ""
    """Folder that keeps them for other runs; none for memory."""

    def __post_init__(self) -> None:
        unrollable(self.net)
        self.change = changed(self.augment, self.real.shape)
        use = Descent(augment=self.augment, own_rate=True)
        self.student: SyntheticSet = begun(self.real, self.per_class, how=self.how, rates=[self.rate], use=use)
        flat, rate, size = self.expert_kind == "flat", self.expert_rate, self.expert_batch
        self.trajectories = TrajectoryBank(
            self.net, self.real, experts=self.experts, length=self.latest + self.span, per_epoch=self.per_epoch,
            training=Flat(rate, batch=size) if flat else Sgd(rate, batch=size), seed=drawn_seed(), folder=self.bank,
        )  # fmt: skip
        self.average = Ema(self.student.images, self.decay)

    def updates(self, batch: Images, clock: Clock) -> Generator[Update, bool, None]:
        chosen = list[int]()

        def least(thetas: list[Parameters], piece: Segment) -> Tensor:
            chosen.append(nearest(thetas, piece))
            return gap(thetas[chosen[-1]], piece)

        match = followed(self, least)
        if (yield Update({"match": match}, logs={"steps": torch.tensor(float(chosen[0]))})):
            self.average.update(self.student.images)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> SyntheticSet:
        return averaged(cls, setting, values)


@torch.no_grad()
def nearest(thetas: list[Parameters], piece: Segment) -> int:
    """n*: after which step, from 1, the parameters were nearest to the piece's end."""
    away = torch.stack([torch.stack([(p - now[n]).abs().sum() for n, p in piece.end.items()]).sum() for now in thetas])
    return len(thetas) - 1 - int(away[1:].flip(0).argmin())
