"""What trajectory distillation shares: edges of segments on a grid of times, and consistency of neighbouring states.

A student jumps from ``x_t`` to any s along the line of what it sees: ``student(x_t, t, y).at(s)``. Two states of one
trajectory of the teacher should end in the same place. Which s are asked for is what the methods differ in: 0 (latent
consistency), the edge of a segment, a random time of it, the times that a sampler will visit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from limbeck.core.schedule import Clock
from limbeck.models.path import wide

__all__ = ["above", "below", "consistency", "edges", "stage", "toward"]

T = TypeVar("T")


def edges(count: int, grid: int) -> Tensor:
    """The edges of ``count`` equal segments of [0, 1], as (count + 1,) rising numbers of steps of a grid."""
    return (torch.arange(count + 1) * grid / count).round().long()


def below(n: Tensor, edges: Tensor) -> Tensor:
    """The largest edge below the grid time n (B,), all int64: at an edge, the one before."""
    return edges[torch.searchsorted(edges, n) - 1]


def above(n: Tensor, edges: Tensor) -> Tensor:
    """The smallest edge above the grid time n (B,), all int64: at an edge, the next."""
    return edges[torch.searchsorted(edges, n, right=True)]


def toward(model: nn.Module, s: Tensor) -> Tensor | None:
    """The target time as a further number (B, 1), for a network that is told one; most are not."""
    return s[:, None] if model.extras else None


def stage(clock: Clock, stages: Sequence[T]) -> tuple[T, bool]:
    """Which of several stages of equal length a run is in, and whether this step is its first."""
    now = clock.step * len(stages) // max(clock.steps, 1)
    return stages[now], clock.step == 0 or (clock.step - 1) * len(stages) // clock.steps != now


def consistency(  # noqa: PLR0917 (two models, two states and their three times)
    student: nn.Module, target: nn.Module, x_t: Tensor, x_near: Tensor, t: Tensor, near: Tensor, s: Tensor,
    y: Tensor | None, extra: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Where the student jumps to from ``x_t``, and where the target does from the teacher's next state.

    Args:
        x_t, x_near: (B, ...) states of one trajectory, at the times t and near (B,).
        s: (B,) where both jump to, at or beyond near; in either direction of time.

    Returns:
        The jump with gradient, the goal without. Where s is near itself, the goal is the teacher's state.
    """
    jumped = student(x_t, t, y, extra).at(s)
    with torch.no_grad():
        goal = torch.where(wide(near == s, x_t).bool(), x_near, target(x_near, near, y, extra).at(s))
    return jumped, goal
