"""What the methods that match training trajectories share: a piece of an expert's way, mini-batches of the
synthetic set, the distance that is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from limbeck.data.augment import augmentation
from limbeck.errors import InputError
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.trajectories import TrajectoryBank
from limbeck.models.unroll import Parameters, StepData, distance

__all__ = ["Segment", "changed", "gap", "minibatches", "segment"]

Change = Callable[[Tensor], Tensor]


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


def minibatches(made: SyntheticSet, size: int, steps: int, change: Change, rate: Tensor) -> list[StepData]:
    """So many steps' mini-batches, without replacement and reshuffled when all are used, each augmented anew; a set
    that is no larger is taken whole."""
    rows: list[Tensor] = []
    left: tuple[Tensor, ...] = ()
    for _ in range(steps):
        if not left:
            left = torch.randperm(len(made)).split(size) if size < len(made) else (torch.arange(len(made)),)
        rows.append(left[0].to(made.y.device))
        left = left[1:]
    x = change(made()[torch.cat(rows)])  # all at once: an augmentation takes as long for one batch as for many
    parts = x.split([len(each) for each in rows])
    return [StepData(part, made.y[each], rate) for part, each in zip(parts, rows, strict=True)]


def changed(names: str, shape: tuple[int, int, int]) -> Change:
    """The augmentation of both the synthetic mini-batches and the networks that will be trained on them."""
    return augmentation(names, shape) or (lambda images: images)
