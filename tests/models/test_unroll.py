"""Unrolled training: its gradient is the finite difference's, and replaying it is the same in less memory."""

import torch
from torch import nn

from limbeck.models.tiny import cnn
from limbeck.models.unroll import State, StepData, distance, parameters_of, replay, start, unroll


def small() -> tuple[nn.Module, State, State]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    target = {n: p + 0.1 * torch.randn_like(p) for n, p in parameters_of(net).items()}
    return net, start(parameters_of(net)), start(target)


def steps(x: torch.Tensor, rate: torch.Tensor, count: int = 5) -> list[StepData]:
    return [StepData(x[k % 2 :: 2], torch.tensor([0, 1, 1]), rate) for k in range(count)]


def test_the_gradient_is_the_finite_differences() -> None:
    net, begin, end = small()
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def loss(x: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
        return distance(unroll(net, begin, steps(x, rate), 0.9)[-1].theta, end.theta)

    assert torch.autograd.gradcheck(loss, (x, rate), eps=1e-6, atol=1e-5)


def test_replaying_is_the_same_gradient_whatever_the_objective_looks_at() -> None:
    net, begin, end = small()
    for momentum in (0.0, 0.9):
        for objective in (
            lambda thetas: distance(thetas[-1], end.theta),
            lambda thetas: distance(thetas[2], end.theta) + 0.5 * distance(thetas[4], begin.theta),
        ):
            found = []
            for way in ("plain", "replay"):
                torch.manual_seed(1)
                x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
                rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
                if way == "plain":
                    loss = objective([s.theta for s in unroll(net, begin, steps(x, rate), momentum)])
                else:
                    loss = replay(net, begin, steps(x, rate), objective, momentum)
                found.append((loss.detach(), *torch.autograd.grad(loss, (x, rate))))
            for a, b in zip(*found, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


class Kept:
    """A tensor that a graph holds on to; counts how many numbers are held at once."""

    now = most = 0

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        Kept.now += tensor.numel()
        Kept.most = max(Kept.most, Kept.now)

    def __del__(self) -> None:
        Kept.now -= self.tensor.numel()


def most_held(count: int, way: str) -> int:
    """Numbers that graphs hold at once in so many steps."""
    torch.manual_seed(0)
    net = cnn(4, shape=(1, 8, 8), classes=3)
    begin, x = start(parameters_of(net)), torch.rand(12, 1, 8, 8, requires_grad=True)
    data = [StepData(x, torch.arange(12) % 3, torch.tensor(0.1)) for _ in range(count)]
    Kept.now = Kept.most = 0
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        if way == "replay":
            loss = replay(net, begin, data, lambda thetas: distance(thetas[-1], begin.theta))
        else:
            loss = distance(unroll(net, begin, data)[-1].theta, begin.theta)
        loss.backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
    return Kept.most


def test_replaying_holds_one_steps_graph_whatever_the_number_of_steps() -> None:
    small, large = most_held(5, "replay"), most_held(20, "replay")
    assert large - small == 15 * (12 * 64 + 1)  # fifteen more references to the same images and a step size each
    assert most_held(20, "plain") > 3 * most_held(5, "plain") and most_held(20, "plain") > 5 * large
