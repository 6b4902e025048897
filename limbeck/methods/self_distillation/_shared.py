"""What the generational methods share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import nn

from limbeck.core.method import Method, Setting
from limbeck.core.modules import eval_mode, freeze
from limbeck.data.batches import Batches


def generations(
    setting: Setting, count: int, make: Callable[[nn.Module, nn.Module | None], Method]
) -> Iterator[nn.Module]:
    """Train ``count`` networks, each with a fresh student and the frozen one before it as its teacher.

    The first has the run's teacher if there is one, else none. Yields every finished student.
    """
    previous = freeze(copy.deepcopy(setting.teachers[0])) if setting.teachers else None
    for number in range(count):
        student = setting.student()
        setting.fit(make(student, previous), name=f"generation-{number}")
        yield student
        previous = freeze(copy.deepcopy(student))


@torch.no_grad()
def predictions(model: nn.Module, data: Batches) -> torch.Tensor:
    """Raw outputs (N, K) for a whole training set: in its order, in eval mode, without augmentation."""
    device = next(model.parameters()).device
    with eval_mode(model):
        return torch.cat([model(batch.x.to(device)) for batch in data.plain()])
