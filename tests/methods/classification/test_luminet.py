"""LumiNet (Hossain et al., 2023): standardised over the batch, softmax over classes, alpha squared."""

import numpy as np
import pytest
import torch

from limbeck import Clock
from limbeck.losses.divergence import distil_kl
from limbeck.methods.classification.luminet import LumiNet, perceptual_kl
from tests.worlds import vision_world


def _slow(s: np.ndarray, t: np.ndarray, tau: float) -> np.ndarray:
    p, q = (((z - z.mean(0)) / np.sqrt(((z - z.mean(0)) ** 2).mean(0) + 1e-5)) / tau for z in (t, s))
    p, q = (np.exp(h) / np.exp(h).sum(1, keepdims=True) for h in (p, q))
    return (p * np.log(p / q)).sum(1)


def test_both_terms_equal_a_slow_reference() -> None:
    world = vision_world()
    [teacher], student, batch = world.teachers, world.student().eval(), world.batch()
    terms = LumiNet(student, teacher, alpha=3.0, tau=2.0, ce=0.5, ramp=0.25).loss(batch, Clock(0, 100))
    s, t = (m(batch.x).detach() for m in (student, teacher))
    slow = _slow(s.double().numpy(), t.double().numpy(), 2.0).mean()
    assert float(terms["luminet"].detach()) == pytest.approx(0.25 * 9 * slow, rel=1e-4)
    assert float(terms["ce"].detach()) == pytest.approx(0.5 * float(torch.nn.functional.cross_entropy(s, batch.y)))


def test_scale_and_shift_of_a_class_do_not_matter_to_it_but_do_to_kd() -> None:
    torch.manual_seed(0)
    s, t, scale, shift = (torch.randn(n, 4, dtype=torch.float64) for n in (16, 16, 1, 1))
    moved = t * scale.exp() + shift
    torch.testing.assert_close(perceptual_kl(s, moved, 1.0), perceptual_kl(s, t, 1.0), rtol=1e-3, atol=1e-4)
    assert (distil_kl(s, moved, 1.0) - distil_kl(s, t, 1.0)).abs().mean() > 0.05
    rows = t * scale.exp().mT.repeat(4, 1) + 1  # each sample scaled: row-wise standardisation would not see it
    assert (perceptual_kl(s, rows, 1.0) - perceptual_kl(s, t, 1.0)).abs().mean() > 0.01


def test_statistics_carry_the_students_gradient() -> None:
    """A shift common to the batch has no effect, so every class's gradient sums to zero over the batch."""
    torch.manual_seed(0)
    s, t = torch.randn(2, 8, 4, dtype=torch.float64)
    s.requires_grad_()
    (gradient,) = torch.autograd.grad(perceptual_kl(s, t, 1.0).mean(), s)
    torch.testing.assert_close(gradient.sum(0), torch.zeros(4, dtype=torch.float64))
    assert gradient.abs().max() > 1e-3


def test_it_rises_over_the_ramp_and_a_batch_of_one_has_no_signal() -> None:
    world = vision_world()
    method = LumiNet(world.student().eval(), world.teachers[0])
    early, late = (method.loss(world.batch(), Clock(step, 240))["luminet"].detach() for step in (0, 19))
    assert float(early / late) == pytest.approx(1 / 20)
    assert float(method.loss(world.batch(1), Clock(100, 240))["luminet"].detach()) == pytest.approx(0, abs=1e-6)
