"""Unrolled training: its gradient is the finite difference's, and replaying it is the same in less memory."""

import torch
from torch import nn

from limbeck.models.tiny import cnn
from limbeck.models.unroll import State, StepData, Steps, distance, parameters_of, replay, start, unroll


def small() -> tuple[nn.Module, State, State]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    target = {n: p + 0.1 * torch.randn_like(p) for n, p in parameters_of(net).items()}
    return net, start(parameters_of(net)), start(target)


def steps(x: torch.Tensor, rate: torch.Tensor, count: int = 5) -> Steps:
    return Steps(x, rate, count, lambda k, x, rate: StepData(x[k % 2 :: 2], torch.tensor([0, 1, 1]), rate))


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
            for keep in (None, 0, 2500, 2**30):  # bytes: no replay, no graph, those of two steps, all
                torch.manual_seed(1)
                x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
                rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
                if keep is None:
                    loss = objective([s.theta for s in unroll(net, begin, steps(x, rate), momentum)])
                else:
                    loss = replay(net, begin, steps(x, rate), objective, momentum, keep=keep)
                found.append((loss.detach(), *torch.autograd.grad(loss, (x, rate))))
            for replayed in found[1:]:
                for a, b in zip(found[0], replayed, strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_images_and_step_sizes_of_their_own_are_reached_through_whatever_makes_them() -> None:
    net, begin, end = small()
    rates = torch.tensor([0.3, 0.2, 0.1], dtype=torch.float64, requires_grad=True)
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    data = Steps(
        x.tanh(), rates.exp() - 1, 3, lambda k, x, r: StepData(x[k : k + 3] ** 2, torch.tensor([0, 1, 1]), r[k])
    )
    found = [
        torch.autograd.grad(loss, (x, rates), retain_graph=True)
        for loss in (
            distance(unroll(net, begin, data)[-1].theta, end.theta),
            replay(net, begin, data, lambda thetas: distance(thetas[-1], end.theta), keep=0),
        )
    ]
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
    data = Steps(x, torch.tensor(0.1), count, lambda _, x, rate: StepData(x, torch.arange(12) % 3, rate))
    Kept.now = Kept.most = 0
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        if way == "replay":
            loss = replay(net, begin, data, lambda thetas: distance(thetas[-1], begin.theta), keep=0)
        else:
            loss = distance(unroll(net, begin, data)[-1].theta, begin.theta)
        loss.backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
    return Kept.most


def test_replaying_holds_one_steps_graph_whatever_the_number_of_steps() -> None:
    small, large = most_held(5, "replay"), most_held(20, "replay")
    assert large == small
    assert most_held(20, "plain") > 3 * most_held(5, "plain") and most_held(20, "plain") > 5 * large


def passes(keep: int) -> int:
    """Forward passes of a network in eight steps that are replayed."""
    torch.manual_seed(0)
    net, seen = cnn(4, shape=(1, 8, 8), classes=3), list[int]()
    net.register_forward_pre_hook(lambda *_: seen.append(1))
    begin, x = start(parameters_of(net)), torch.rand(12, 1, 8, 8, requires_grad=True)
    data = Steps(x, torch.tensor(0.1), 8, lambda _, x, rate: StepData(x, torch.arange(12) % 3, rate))
    replay(net, begin, data, lambda thetas: distance(thetas[-1], begin.theta), keep=keep).backward()
    return len(seen)


def test_only_steps_whose_graphs_are_over_the_limit_are_made_again() -> None:
    assert passes(0) == 16 and passes(2**30) == 8
    sizes = [passes(keep) for keep in range(0, 2**18, 2**15)]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) > 4
