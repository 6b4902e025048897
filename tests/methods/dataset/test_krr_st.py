"""KRR-ST: the dual solution is the primal one, the trace is constant, the pool ages, a network learns the targets."""

import pytest
import torch
from torch.nn import functional as F

from limbeck import fit
from limbeck.data.batches import Batches
from limbeck.methods.dataset.krr_st import KrrSt, regression
from limbeck.models.pretraining import Pretraining, embed, probe
from tests.worlds import SGD, accuracy, vision_world

WORLD = vision_world(plain=True)


def built(**values: object) -> KrrSt:
    torch.manual_seed(0)
    return KrrSt(WORLD.train, WORLD.student(), WORLD.teachers[0], **{"per_class": 2, "pool": 2, "age": 4, **values})


@pytest.mark.parametrize("samples", [5, 40])
def test_it_is_ridge_regression_in_closed_form(samples: int) -> None:
    torch.manual_seed(0)
    f_s, y_s = torch.randn(samples, 7).requires_grad_(), torch.randn(samples, 3).requires_grad_()
    f_t, g = torch.randn(11, 7), torch.randn(11, 3)
    one_s, one_t = (torch.cat([f, torch.ones(len(f), 1)], 1).double() for f in (f_s, f_t))
    lam = 1e-3 * one_s.square().sum().detach()
    weights = torch.linalg.solve(one_s.T @ one_s + lam * torch.eye(8), one_s.T @ y_s.double())  # the primal, 8 x 8
    dual, primal = regression(f_s, y_s, f_t, 1e-3), one_t @ weights
    torch.testing.assert_close(dual, primal, rtol=1e-9, atol=1e-9)
    for a, b in zip(*(torch.autograd.grad(F.mse_loss(p, g.double()), [f_s, y_s]) for p in (dual, primal)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)  # so lambda is a constant


def test_the_outer_loss_is_between_predicted_and_true_features() -> None:
    method, x = built(per_class=24), next(iter(Batches(WORLD.train, 32, shuffle=False))).x
    assert method.outer(method.networks[0], method.student.images.pixels.detach()[:60]).item() < 0.05
    member = method.networks[1]
    loss = method.outer(member, x)
    with torch.no_grad():
        member.eval()
        f = [embed(member.net.net, part) for part in (method.student(), x)]
        found = regression(f[0], method.student.targets, f[1], 1e-6)
        torch.testing.assert_close(loss, (found - embed(method.teacher, x)).square().mean().float())
    pixels, targets = torch.autograd.grad(loss, [method.student.images.pixels, method.student.targets])
    assert pixels.abs().max() > 0 and targets.abs().max() > 0


def test_networks_of_the_pool_age_and_are_drawn_anew() -> None:
    torch.manual_seed(0)
    method = KrrSt(WORLD.train, WORLD.student(), WORLD.teachers[0], per_class=2, pool=8, age=4)
    ages = [int(member.age) for member in method.networks]
    assert len(set(ages)) > 1 and all(1 <= age <= 4 for age in ages)
    member = method.networks[0]
    at = int(member.age)
    for _ in range(4 - at):
        method.advance(member)
    assert int(member.age) == 4
    before = member.net.last.weight.clone()
    method.advance(member)
    assert int(member.age) == 0 and not member.v.any() and (member.net.last.weight - before).abs().max() > 0.01
    fit(method, Batches(WORLD.train, 32), SGD, steps=3)
    assert sum(int(m.age) for m in method.networks) != sum(ages)


def test_a_network_learns_the_targets_and_then_the_classes() -> None:
    made_by = built(per_class=10)
    made = made_by.student
    assert made.budget.labels == 60 * 20
    net, x = WORLD.student(5), WORLD.test.take(torch.arange(96))[0]

    def error() -> float:
        found = regression(embed(net, made().detach()), made.targets, embed(net, x), 1e-4)
        return F.mse_loss(found, embed(made_by.teacher, x).double()).item()

    before = error()
    torch.manual_seed(1)
    Pretraining(steps=100).pretrain(net, made)
    assert error() < before  # its features say more of the encoder's, on images that it never saw
    probe(net, *WORLD.train.take(torch.arange(144)))
    assert accuracy(net, WORLD.test) > 0.8
