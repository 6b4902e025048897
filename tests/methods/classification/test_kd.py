"""KD (Hinton et al., 2015): temperature, direction, the factor tau^2, and what the teacher sees."""

import copy

import numpy as np
import pytest
import torch

from limbeck import Clock
from limbeck.core.schedule import Linear
from limbeck.methods.classification.kd import KD
from tests.worlds import vision_world

CLOCK = Clock(0, 1)


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize(("tau", "alpha"), [(1.0, 0.5), (4.0, 0.9)])
def test_both_terms_equal_a_slow_reference(tau: float, alpha: float) -> None:
    world = vision_world()
    [teacher], student, batch = world.teachers, world.student().eval(), world.batch()
    terms = KD(student, teacher, tau=tau, alpha=alpha).loss(batch, CLOCK)
    s, t = (m(batch.x).detach().double().numpy() for m in (student, teacher))
    p, q = _softmax(t / tau), _softmax(s / tau)
    kl = (p * (np.log(p) - np.log(q))).sum(1).mean()
    ce = -np.log(_softmax(s)[np.arange(len(s)), batch.y]).mean()
    assert float(terms["kd"]) == pytest.approx(alpha * tau**2 * kl, rel=1e-4)
    assert float(terms["ce"]) == pytest.approx((1 - alpha) * ce, rel=1e-4)


def test_the_gradients_scale_does_not_depend_on_a_high_temperature() -> None:
    """Hinton et al., equation 4: with tau^2 the gradient tends to (z_S - z_T) / K for centred logits."""
    z_s, z_t = torch.tensor([[0.5, -0.5, 0.0]], requires_grad=True), torch.tensor([[1.0, 0.0, -1.0]])
    identity = torch.nn.Identity()
    for tau in (100.0, 1000.0):
        method = KD(identity, torch.nn.Identity(), tau=tau, alpha=1.0)
        world = vision_world().batch(1)._replace(x=z_s, view=z_t)
        (gradient,) = torch.autograd.grad(method.loss(world, CLOCK)["kd"], z_s)
        torch.testing.assert_close(gradient, (z_s.detach() - z_t) / 3, atol=0.02, rtol=0)


def test_the_soft_term_vanishes_on_the_teacher_itself() -> None:
    world = vision_world()
    twin = copy.deepcopy(world.teachers[0]).requires_grad_(True)
    term = KD(twin, world.teachers[0], alpha=1.0).eval().loss(world.batch(), CLOCK)["kd"]
    gradients = torch.autograd.grad(term, list(twin.parameters()))
    assert float(term.detach()) == pytest.approx(0, abs=1e-5)
    assert max(float(g.abs().max()) for g in gradients) < 1e-4


def test_the_teacher_sees_its_own_view() -> None:
    world = vision_world()
    batch = world.batch()
    method = KD(world.student().eval(), world.teachers[0])
    same, other = (method.loss(b, CLOCK) for b in (batch, batch._replace(view=1 - batch.x)))
    assert float(same["kd"]) != float(other["kd"])
    assert float(same["ce"]) == float(other["ce"])


def test_alpha_may_be_a_schedule() -> None:
    world = vision_world()
    method = KD(world.student().eval(), world.teachers[0], alpha=Linear(0, 1))
    first, last = method.loss(world.batch(), Clock(0, 11)), method.loss(world.batch(), Clock(10, 11))
    assert float(first["kd"]) == 0 and float(last["ce"]) == 0
    assert float(first["ce"]) > 0 and float(last["kd"]) > 0
