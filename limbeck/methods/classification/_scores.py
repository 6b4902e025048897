"""Scores of data pruning, the training that yields them, and the choice of what to keep."""

from __future__ import annotations

from dataclasses import KW_ONLY, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.method import Clock, Count, Method, Setting
from limbeck.core.modules import gather
from limbeck.data.batches import Batches, Images
from limbeck.losses.targets import one_hot

__all__ = ["Scorer", "el2n", "logits", "scores", "select"]


def el2n(z: Tensor, labels: Tensor) -> Tensor:
    """``||softmax(z) - onehot(y)||_2`` (Paul, Ganguli & Dziugaite, 2021), https://arxiv.org/abs/2107.07075.

    Args:
        z: (N, K) logits of a network early in its training; average the scores of several.
        labels: (N,).

    Returns:
        (N,) in [0, sqrt 2], large for hard samples.
    """
    return (z.softmax(1) - one_hot(labels, z.shape[1])).norm(dim=1)


def select(score: Tensor, labels: Tensor, share: float, *, balanced: bool) -> Tensor:
    """The rows with the highest scores, in ascending order; equal scores are drawn between.

    Args:
        score: (N,), may be infinite.
        labels: (N,).
        share: of the rows to keep; at least one is.
        balanced: keep that share of every class.
    """
    drawn = torch.randperm(len(score))
    order = drawn[score[drawn].argsort(descending=True, stable=True)]
    if balanced:
        place = torch.empty(len(score))
        for k in labels.unique():
            own = order[labels[order] == k]
            place[own] = (torch.arange(len(own)) + 0.5) / len(own)
        order = order[place[order].argsort(stable=True)]
    return order[: max(1, round(share * len(order)))].sort().values


@torch.no_grad()
def logits(model: nn.Module, data: Batches) -> Tensor:
    """(N, K) for a whole training set: in its order, in eval mode, without augmentation."""
    model.eval()
    device = next(model.parameters()).device
    return torch.cat([model(batch.x.to(device)).cpu() for batch in data.plain()])


class Scorer(Method):
    """Cross-entropy to the labels, counting how often each sample is learnt and forgotten again.

    Toneva et al. (2019), https://arxiv.org/abs/1812.05159: a forgetting event is a prediction that was right when the
    sample was last trained on and now is wrong.
    """

    student: nn.Module
    _: KW_ONLY
    examples: Count = 1
    """Rows of the training set."""

    right: Tensor = field(init=False)
    learnt: Tensor = field(init=False)
    forgotten: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.register_buffer("right", torch.zeros(self.examples, dtype=torch.bool))
        self.register_buffer("learnt", torch.zeros(self.examples, dtype=torch.bool))
        self.register_buffer("forgotten", torch.zeros(self.examples))

    def loss(self, batch: Images, clock: Clock) -> Tensor:
        z = self.student(batch.x)
        rows, now = gather(batch.index), gather(z.argmax(1) == batch.y)
        self.forgotten[rows] += self.right[rows] & ~now
        self.learnt[rows] |= now
        self.right[rows] = now
        return F.cross_entropy(z, batch.y)

    @property
    def forgetting(self) -> Tensor:
        """(N,) counts of forgetting events; infinite for samples that were never learnt."""
        return self.forgotten.masked_fill(~self.learnt, torch.inf).cpu()


def scores(setting: Setting, kind: Literal["random", "el2n", "forgetting"], networks: int) -> Tensor:
    """(N,) for a run's training set, the sum over networks that are trained for it; noise when the kind is random.

    A network is trained for a tenth of the run's steps when its early error is asked for, else for all of them.
    """
    N, steps = len(setting.data.dataset), setting.steps
    if kind == "random":
        return torch.rand(N)
    total = torch.zeros(N)
    for number in range(networks):
        scorer = Scorer(setting.student(), examples=N)
        setting.fit(scorer, name=f"scorer-{number}", steps=steps if kind == "forgetting" else max(1, steps // 10))
        if kind == "forgetting":
            total += scorer.forgetting
        else:
            total += el2n(logits(scorer.student, setting.data), setting.data.dataset.labels)
    return total
