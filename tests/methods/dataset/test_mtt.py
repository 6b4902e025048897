"""MTT: the loss is a slow unroll's, gradients too; 0 on the expert's own step and 1 for who stands still."""

import pytest
import torch
from torch.nn import functional as F

from limbeck.core.schedule import Clock
from limbeck.errors import InputError
from limbeck.methods.dataset._trajectories import gap, minibatches, segment
from limbeck.methods.dataset.mtt import MatchingTrajectories
from limbeck.models.unroll import StepData, start, unroll
from tests.worlds import vision_world

WORLD = vision_world(plain=True)
CLOCK = Clock(0, 1)
SMALL = {"per_class": 2, "steps": 3, "latest": 2, "span": 1, "experts": 2, "augment": "none", "expert_rate": 0.1}


def built(**values: object) -> MatchingTrajectories:
    torch.manual_seed(0)
    return MatchingTrajectories(WORLD.train, WORLD.student(), **{**SMALL, **values})


def test_the_loss_and_its_gradient_are_those_of_plain_steps_written_out() -> None:
    method = built(batch=5)
    torch.manual_seed(1)
    loss = method.loss(None, CLOCK)["match"]
    loss.backward()
    torch.manual_seed(1)
    piece = segment(method.trajectories, 2, 1)
    rows = torch.randperm(12).split(5)
    pixels = method.student().detach().requires_grad_()
    alpha = method.student.rates.detach()[0].requires_grad_()
    theta, net = {n: p.clone().requires_grad_() for n, p in piece.begin.items()}, method.net
    for own in rows:
        logits = torch.func.functional_call(net, theta, (pixels[own],))
        slopes = torch.autograd.grad(F.cross_entropy(logits, method.student.y[own]), theta.values(), create_graph=True)
        theta = {n: p - alpha * g for (n, p), g in zip(theta.items(), slopes, strict=True)}
    left = sum((theta[n] - p).square().sum() for n, p in piece.end.items())
    whole = sum((piece.begin[n] - p).square().sum() for n, p in piece.end.items())
    torch.testing.assert_close(loss, left / whole)
    slow = torch.autograd.grad(left / whole, (pixels, alpha))
    torch.testing.assert_close(method.student.images.pixels.grad, slow[0], rtol=1e-3, atol=1e-6)
    softplus = torch.autograd.functional.jacobian(F.softplus, method.student.raw_rates.detach())[0, 0]
    torch.testing.assert_close(method.student.raw_rates.grad[0], slow[1] * softplus, rtol=1e-3, atol=1e-6)


def test_the_experts_own_images_and_step_lead_exactly_where_it_went() -> None:
    method = built(expert_batch=144)
    piece, (x, y) = segment(method.trajectories, 2, 1), WORLD.train.take(torch.arange(144))
    own = unroll(method.net, start(piece.begin), [StepData(x, y, torch.tensor(0.1))])[-1].theta
    assert gap(own, piece) < 1e-8 and gap(piece.begin, piece).item() == 1.0
    away = unroll(method.net, start(piece.begin), [StepData(x, y, torch.tensor(-0.1))])[-1].theta
    torch.testing.assert_close(gap(away, piece), torch.tensor(4.0), rtol=1e-3, atol=0)  # twice as far, squared


def test_every_image_is_used_once_before_any_is_used_again() -> None:
    method = built()
    torch.manual_seed(0)
    x, rate = method.student(), method.student.rates[0]
    seen = [
        [int((x - image).flatten(1).abs().sum(1).argmin()) for image in data.x]
        for data in minibatches(x, method.student.y, rate, size=5, steps=6, change=method.change)
    ]
    assert [len(rows) for rows in seen] == [5, 5, 2, 5, 5, 2]
    for part in (seen[:3], seen[3:]):
        assert sorted(row for rows in part for row in rows) == list(range(12))
    assert seen[:3] != seen[3:]


def test_pieces_begin_before_the_latest_moment_and_bad_networks_are_refused() -> None:
    method = built(latest=3, span=2)
    found = [segment(method.trajectories, 3, 2) for _ in range(60)]
    assert {piece.moment for piece in found} == {0, 1, 2} and {piece.expert for piece in found} == {0, 1}
    for piece in found[:5]:
        end = method.trajectories.at(piece.expert, piece.moment + 2)
        assert all(torch.equal(p, end[n]) for n, p in piece.end.items())
    with pytest.raises(InputError, match="batch norm"):
        MatchingTrajectories(WORLD.train, WORLD.teachers[0])
