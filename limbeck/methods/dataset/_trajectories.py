"""What the methods that match training trajectories share: a piece of an expert's way, mini-batches of the
synthetic set, the distance that is left, averages of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from limbeck.core.method import Method, Setting
from limbeck.data.augment import Augmentation, augmentation
from limbeck.errors import InputError
from limbeck.methods.dataset._shared import fitted
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.trajectories import TrajectoryBank
from limbeck.models.unroll import Parameters, StepData, Steps, distance, replay, start

__all__ = ["Segment", "averaged", "changed", "followed", "gap", "minibatches", "segment"]


class Segment(NamedTuple):
    """A piece of an expert's trajectory.

    Args:
        expert: whose.
        moment: t, where it begins.
        begin: theta*_t.
        end: theta*_{t + M}.
    """

    expert: int
    moment: int
    begin: Parameters
    end: Parameters


def segment(bank: TrajectoryBank, latest: int, span: int) -> Segment:
    """A random expert's piece of M = ``span`` moments that begins at a random t before T+ = ``latest``."""
    expert, t = int(torch.randint(bank.experts, ())), int(torch.randint(latest, ()))
    return Segment(expert, t, bank.at(expert, t), bank.at(expert, t + span))


def gap(theta: Parameters, piece: Segment) -> Tensor:
    """``||theta - theta*_{t+M}||^2 / ||theta*_t - theta*_{t+M}||^2``, a scalar: 1 for a student that did not move."""
    whole = distance(piece.begin, piece.end)
    if not whole > 0:
        raise InputError("experts", piece.expert, f"is an expert that stands still at moment {piece.moment}: train it "
                         "with larger steps, or match earlier moments")  # fmt: skip
    return distance(theta, piece.end) / whole


def minibatches(images: Tensor, y: Tensor, rate: Tensor, *, size: int, steps: int, change: Augmentation) -> Steps:
    """So many steps' mini-batches of (S, C, H, W) images, without replacement and reshuffled when all are used, each
    augmented anew; a set that is no larger is taken whole. What is random is drawn here, for all steps."""
    rows: list[Tensor] = []
    left: tuple[Tensor, ...] = ()
    for _ in range(steps):
        if not left:
            left = torch.randperm(len(y)).split(size) if size < len(y) else (torch.arange(len(y)),)
        rows.append(left[0].to(y.device))
        left = left[1:]
    places = [slice(a, b) for a, b in pairwise(accumulate(map(len, rows), initial=0))]
    drawn = change.draw(places[-1].stop)

    def make(n: int, images: Tensor, rate: Tensor) -> StepData:
        return StepData(drawn(images[rows[n]], places[n]), y[rows[n]], rate)

    return Steps(images, rate, steps, make)


def followed(method: Any, objective: Callable[[list[Parameters], Segment], Tensor]) -> Tensor:
    """Train on the synthetic set from where a random expert was; the ``objective`` of the parameters after every step
    and of the expert's piece, as a function of pixels and step size."""
    piece, made = segment(method.trajectories, method.latest, method.span), method.student
    data = minibatches(
        made(), made.y, made.rates[0], size=method.batch, steps=method.steps, change=method.change
    )  # fmt: skip
    return replay(method.net, start(piece.begin), data, lambda thetas: objective(thetas, piece))


def changed(names: str, shape: tuple[int, int, int]) -> Augmentation:
    """The augmentation of both the synthetic mini-batches and the networks that will be trained on them."""
    return augmentation(names, shape) or Augmentation([], shape)


def averaged(cls: type[Method], setting: Setting, values: Mapping[str, Any]) -> SyntheticSet:
    """The procedure of those that keep a moving ``average`` of the images: it is what they give."""
    method = fitted(cls, setting, values, 1)
    method.student.images.load_state_dict(method.average.average.state_dict())
    return method.student
