"""BD-KD (Amara et al., 2022): which direction is stressed, constants, and two networks that learn from one pass."""

import copy

import numpy as np
import pytest
import torch

from limbeck import Clock, fit
from limbeck.losses.divergence import jeffreys, soft_log
from limbeck.methods.classification.bd_kd import BDKD, balanced
from tests.worlds import SGD, vision_world

CLOCK = Clock(0, 1)


def test_both_players_terms_equal_a_slow_reference() -> None:
    world = vision_world()
    batch, tau, delta = world.batch(), 3.0, 2.5
    method = BDKD(world.student().eval(), world.teachers[0], tau=tau, delta=delta).eval()
    student, teacher = method.updates(batch, CLOCK)
    s, t = (m(batch.x).detach().double().numpy() / tau for m in (method.student, method.teacher))
    p_s, p_t = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (s, t))
    forward, reverse = (p_t * np.log(p_t / p_s)).sum(1), (p_s * np.log(p_s / p_t)).sum(1)
    confident = -(p_s * np.log(p_s)).sum(1) < -(p_t * np.log(p_t)).sum(1)
    assert (student.player, teacher.player) == ("student", "teacher")
    found = {k: float(v.detach()) for k, v in student.terms.items()}
    assert found["forward"] == pytest.approx(tau**2 * (np.where(confident, delta, 1) * forward).mean(), rel=1e-4)
    assert found["reverse"] == pytest.approx(tau**2 * (np.where(confident, 1, delta) * reverse).mean(), rel=1e-4)
    assert float(teacher.terms["reverse"].detach()) == pytest.approx(tau**2 * reverse.mean(), rel=1e-4)


def test_a_confident_student_is_spread_and_a_hesitant_one_sharpened() -> None:
    sharp, flat = soft_log(torch.tensor([[4.0, 0.0, 0.0]])), soft_log(torch.tensor([[1.0, 0.5, 0.0]]))
    for s, t, forward, reverse in ((sharp, flat, 3, 1), (flat, sharp, 1, 3)):
        (f, r), (f1, r1) = balanced(s, t, 3.0), balanced(s, t, 1.0)
        assert (float(f / f1), float(r / r1)) == pytest.approx((forward, reverse))
        torch.testing.assert_close(f1 + r1, jeffreys(t, s))


def test_the_partner_and_the_weights_are_constants() -> None:
    world = vision_world()
    method = BDKD(world.student(), world.teachers[0]).eval()
    for update in method.updates(world.batch(), CLOCK):
        mine, other = (
            (method.student, method.teacher) if update.player == "student" else (method.teacher, method.student)
        )
        for name, term in update.terms.items():
            reached = torch.autograd.grad(term, [*mine.parameters()], retain_graph=True, allow_unused=True)
            leaked = torch.autograd.grad(term, [*other.parameters()], retain_graph=True, allow_unused=True)
            assert all(g is not None for g in reached), name
            assert all(g is None for g in leaked), name


def test_both_learn_and_the_given_teacher_stays() -> None:
    world = vision_world()
    [given] = world.teachers
    before = copy.deepcopy(given.state_dict())
    method = BDKD(world.student(), given)
    start = {name: p.detach().clone() for name, p in method.named_parameters()}
    fit(method, world.data, SGD, steps=2)
    assert all(not torch.equal(p, start[name]) for name, p in method.named_parameters())
    assert all(torch.equal(v, before[k]) for k, v in given.state_dict().items())
