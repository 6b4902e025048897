"""AST: smooth experts' step, the balance as a factor on the loss, disturbed starts, and both auxiliary terms."""

import math

import torch
from torch.nn import functional as F

from limbeck.core.schedule import Clock
from limbeck.data.batches import Images
from limbeck.methods.dataset._trajectories import gap, minibatches, segment
from limbeck.methods.dataset.ast import Smooth, SmoothTrajectories, balance, disturbed
from limbeck.models.unroll import StepData, start, step, unroll
from tests.worlds import vision_world

WORLD = vision_world(plain=True)
CLOCK = Clock(0, 1)
SMALL = {"per_class": 2, "steps": 4, "latest": 2, "span": 2, "experts": 2, "augment": "none", "expert_rate": 0.1}


def built(**values: object) -> SmoothTrajectories:
    torch.manual_seed(0)
    return SmoothTrajectories(WORLD.train, WORLD.student(), **{**SMALL, **values})


def real(count: int = 36) -> Images:
    rows = torch.arange(count)
    return Images(*WORLD.train.take(rows), rows)


def test_experts_step_against_the_held_loss_and_its_steepness() -> None:
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2).double()
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.arange(8) % 2
    training = Smooth(rate=0.5, momentum=0.9, weight_decay=0.0, penalty=0.3)

    def loss(at: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(x @ at[:6].view(2, 3).T + at[6:], y)

    v = torch.zeros(8, dtype=torch.float64)
    optimizer = training.optimizer(net)
    for epoch, held, rate in ((0, 0.5, 0.5), (30, 1.0, 0.35)):
        theta = torch.cat([p.detach().flatten() for p in net.parameters()])
        g, curved = torch.autograd.functional.jacobian(loss, theta), torch.autograd.functional.hessian(loss, theta)
        slope = held * g + 0.3 * 2 * curved @ g
        v = 0.9 * v + slope
        training.step(net, optimizer, x, y, epoch=epoch, epochs=50)
        found = torch.cat([p.detach().flatten() for p in net.parameters()])
        torch.testing.assert_close(found, theta - rate * v)


def test_the_balance_on_the_step_size_is_one_on_the_loss_and_rises_with_the_moment() -> None:
    assert math.isclose(balance(10, 20), math.log(8) / math.log(5)) and balance(0, 20) < 1 < balance(19, 20)
    assert all(balance(t, 20) < balance(t + 1, 20) for t in range(19))
    method, factor = built(), 1.7
    x, y, net = method.student().detach(), method.student.y, method.net
    state = start(method.trajectories.at(0, 0))
    theta, v = dict(state.theta), dict(state.v)
    for _ in range(3):
        theta = {n: p.detach().requires_grad_() for n, p in theta.items()}
        loss = factor * F.cross_entropy(torch.func.functional_call(net, theta, (x,)), y)
        slopes = torch.autograd.grad(loss, list(theta.values()))
        v = {n: 0.9 * v[n] + g for n, g in zip(theta, slopes, strict=True)}
        theta = {n: p - 0.1 * v[n] for n, p in theta.items()}
        state = state._replace(theta={n: p.detach().requires_grad_() for n, p in state.theta.items()})
        state = step(net, state, StepData(x, y, torch.tensor(0.1 * factor)), 0.9, graph=False)
    for name, p in theta.items():
        torch.testing.assert_close(state.theta[name], p, rtol=1e-4, atol=1e-5)


def test_a_disturbed_start_is_multiplied_tensor_by_tensor_half_of_it_untouched() -> None:
    torch.manual_seed(0)
    theta = {"a": torch.rand(40, 50) + 1, "b": torch.rand(300) - 2}
    found = disturbed(theta, 0.5)
    for name, p in theta.items():
        relative = found[name] / p - 1
        torch.testing.assert_close(relative.norm(), torch.tensor(0.5), rtol=1e-3, atol=0)
        assert 0.4 < (relative.abs() < 1e-6).float().mean().item() < 0.6


def test_moments_on_the_way_are_matched_in_proportion() -> None:
    method = built(noise=0.0, weight=0.3, rate=0.1)
    torch.manual_seed(1)
    found = method.loss(real(), CLOCK)["match"]
    torch.manual_seed(1)
    piece, made = segment(method.trajectories, 2, 2), method.student
    data = minibatches(
        made(), made.y, made.rates[0] * balance(piece.moment, 2), size=100, steps=4, change=method.change
    )
    states = unroll(method.net, start(piece.begin), data, 0.9)
    middle = piece._replace(end=method.trajectories.at(piece.expert, piece.moment + 1))
    torch.testing.assert_close(found, gap(states[4].theta, piece) + 0.3 * gap(states[2].theta, middle))


def test_class_means_of_features_are_matched_in_the_network_that_was_reached_without_moving_it() -> None:
    method = built(auxiliary="features", how="real")
    with torch.no_grad():
        own = Images(method.student().clone(), method.student.y, torch.arange(12))
    torch.manual_seed(1)
    assert method.loss(own, CLOCK)["features"].item() < 1e-10
    torch.manual_seed(1)
    terms = method.loss(real(), CLOCK)
    terms["features"].backward()
    assert terms["features"].item() > 1e-4 and method.student.images.pixels.grad.abs().sum() > 0
    assert method.student.raw_rates.grad is None  # the network is constant there
