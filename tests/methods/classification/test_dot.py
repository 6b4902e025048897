"""DOT (Zhao et al., 2023): SGD at Delta = 0, a moved optimum otherwise, and what the driver does with it."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from limbeck import Clock, fit
from limbeck.errors import InputError
from limbeck.methods.classification.dot import DOT, SplitSGD
from tests.worlds import vision_world

DOUBLE = partial(torch.tensor, dtype=torch.float64)


def _two_losses(net: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    return net(x).square().mean(), (net(x) - 1).cosh().log().mean()


def _net() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2).double()


def _advance(net: nn.Linear, optimizer: SplitSGD, steps: int) -> None:
    for _ in range(steps):
        for name, loss in zip(("task", "distil"), _two_losses(net, torch.randn(5, 3).double()), strict=True):
            loss.backward()
            optimizer.collect(name)
        optimizer.step()


def test_without_delta_it_is_sgd_with_momentum() -> None:
    mine, theirs = _net(), _net()
    groups = [[{"params": [n.weight]}, {"params": [n.bias], "lr": 0.02, "momentum": 0.5}] for n in (mine, theirs)]
    split = SplitSGD(groups[0], lr=0.05, momentum=0.9, delta=0.0, weight_decay=0.1)
    sgd = torch.optim.SGD(groups[1], lr=0.05, momentum=0.9, weight_decay=0.1)
    torch.manual_seed(1)
    _advance(mine, split, 20)
    torch.manual_seed(1)
    for _ in range(20):
        sgd.zero_grad()
        sum(_two_losses(theirs, torch.randn(5, 3).double())).backward()
        sgd.step()
    torch.testing.assert_close(mine.weight, theirs.weight, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mine.bias, theirs.bias, rtol=1e-12, atol=1e-12)


def test_the_fixed_point_is_the_optimum_of_a_reweighted_loss() -> None:
    """Pulled to 0 by the task and to 1 by the distillation, a parameter rests at r / (1 + r), r = 7 for Delta 0.075."""
    p = nn.Parameter(DOUBLE(0.0))
    optimizer = SplitSGD([p], lr=0.01, momentum=0.9, delta=0.075)
    for _ in range(3000):
        (p**2 / 2).backward()
        optimizer.collect("task")
        ((p - 1) ** 2 / 2).backward()
        optimizer.collect("distil")
        optimizer.step()
    ratio = (1 - 0.9 + 0.075) / (1 - 0.9 - 0.075)
    assert ratio == pytest.approx(7)
    assert float(p.detach()) == pytest.approx(ratio / (1 + ratio), abs=1e-9)


def test_one_sided_parameters_take_the_plain_momentum_and_one_weight_decay() -> None:
    both, task, distil = (nn.Parameter(DOUBLE(2.0)) for _ in range(3))
    optimizer = SplitSGD([both, task, distil], lr=0.1, momentum=0.8, delta=0.1, weight_decay=0.5)
    v = {"both/task": 0.0, "both/distil": 0.0, "task": 0.0, "distil": 0.0}
    x = {"both": 2.0, "task": 2.0, "distil": 2.0}
    for _ in range(4):
        (3 * both + 3 * task).backward()
        optimizer.collect("task")
        (5 * both + 5 * distil).backward()
        optimizer.collect("distil")
        optimizer.step()
        v["both/task"] = 0.7 * v["both/task"] + 3 + 0.5 * x["both"]
        v["both/distil"] = 0.9 * v["both/distil"] + 5
        v["task"] = 0.8 * v["task"] + 3 + 0.5 * x["task"]
        v["distil"] = 0.8 * v["distil"] + 5 + 0.5 * x["distil"]
        x["both"] -= 0.1 * (v["both/task"] + v["both/distil"])
        x["task"] -= 0.1 * v["task"]
        x["distil"] -= 0.1 * v["distil"]
    assert [float(p.detach()) for p in (both, task, distil)] == pytest.approx(list(x.values()))


def test_its_state_survives_a_round_trip() -> None:
    straight, resumed = _net(), _net()
    torch.manual_seed(1)
    optimizer = SplitSGD(straight.parameters(), lr=0.05)
    _advance(straight, optimizer, 6)
    torch.manual_seed(1)
    first = SplitSGD(resumed.parameters(), lr=0.05)
    _advance(resumed, first, 3)
    second = SplitSGD(resumed.parameters(), lr=0.05)
    second.load_state_dict(first.state_dict())
    _advance(resumed, second, 3)
    assert torch.equal(straight.weight, resumed.weight)


@pytest.mark.parametrize(("delta", "accumulate"), [(0.0, 1), (0.05, 2)])
def test_the_driver_hands_it_each_term(delta: float, accumulate: int) -> None:
    world = vision_world()
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3)
    [teacher], weights = world.teachers, []
    for driven in (True, False):
        student = world.student().eval()
        method = DOT(student, teacher, delta=delta)
        data = world.data.with_data(world.train)
        if driven:
            method.train = lambda mode=True, m=method: m  # batch norm stays in eval mode, as in the loop below
            fit(method, data, sgd, steps=3, accumulate=accumulate)
        else:
            optimizer, stream = method.optimizers(sgd)["student"], iter(data)
            for step in range(3):
                batches = [next(stream) for _ in range(accumulate)]
                for term in ("task", "distil"):
                    for batch in batches:
                        (method.loss(batch, Clock(step, 3))[term] / accumulate).backward()
                    optimizer.collect(term)
                optimizer.step()
        weights.append(nn.utils.parameters_to_vector(student.parameters()).detach())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


def test_it_takes_plain_sgd_only() -> None:
    method = DOT(vision_world().student(), vision_world().teachers[0])
    for make in (torch.optim.AdamW, partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True)):
        with pytest.raises(InputError, match="optimizer"):
            method.optimizers(make)
    with pytest.raises(InputError, match="delta"):
        method.optimizers(partial(torch.optim.SGD, lr=0.1))  # no momentum to split


def test_clipping_is_refused_rather_than_skipped() -> None:
    world = vision_world()
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    with pytest.raises(InputError, match="clip"):
        fit(DOT(world.student(), world.teachers[0]), world.data, sgd, steps=1, clip=1.0)
