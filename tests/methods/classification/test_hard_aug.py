"""HARD: the two players' terms, the loss-triggered switch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from limbeck.core.fit import fit
from limbeck.core.method import Clock
from limbeck.methods.classification.hard_aug import HardAug
from limbeck.models.augmentor import Augmentor
from tests.worlds import SGD, vision_world

CLOCK = Clock(0, 1)


def slow_kl(p: np.ndarray, q: np.ndarray, tau: float) -> float:
    def log_softmax(z: np.ndarray) -> np.ndarray:
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    p, q = log_softmax(p / tau), log_softmax(q / tau)
    return tau**2 * float((np.exp(p) * (p - q)).sum(1).mean())


def test_both_players_terms_equal_a_slow_reference() -> None:
    world = vision_world()
    student, teacher, x = world.student(), world.teachers[0], world.batch().x
    method = HardAug(student, teacher, tau=3.0, lam=0.7)
    method.train()
    before = {name: b.clone() for name, b in student.named_buffers()}
    torch.manual_seed(1)
    terms = method.adversary(x)
    assert student.training and all(torch.equal(b, before[name]) for name, b in student.named_buffers())
    torch.manual_seed(1)
    with torch.no_grad():
        warped = method.augmentor(x)
        student.eval()
        t, s, clean = (z.double().numpy() for z in (teacher(warped), student(warped), teacher(x)))
    assert terms["disagreement"].item() == pytest.approx(-slow_kl(t, s, 3.0), rel=1e-4)
    assert terms["invariance"].item() == pytest.approx(0.7 * slow_kl(clean, t, 3.0), rel=1e-3)
    gradients = torch.autograd.grad(sum(terms.values()), list(method.augmentor.parameters()))
    assert all(g.abs().sum() > 0 for g in gradients) and not any(p.requires_grad for p in teacher.parameters())
    method.eval()
    torch.manual_seed(1)
    [update] = method.updates(world.batch(), CLOCK)  # the augmentor pauses at first
    with torch.no_grad():
        s_clean = student(x).double().numpy()
    assert update.terms["hard"].item() == pytest.approx(slow_kl(t, s, 3.0), rel=1e-4)
    assert update.terms["kd"].item() == pytest.approx(slow_kl(clean, s_clean, 3.0), rel=1e-4)


def test_the_augmentors_step_makes_the_student_disagree_more() -> None:
    """Without the invariance term, down the gradient of its loss is up the divergence."""
    world = vision_world()
    method = HardAug(world.student(), world.teachers[0], lam=0.0)
    x, optimizer = world.batch(64).x, torch.optim.SGD(method.augmentor.parameters(), lr=0.05)

    def loss() -> torch.Tensor:
        torch.manual_seed(0)
        return sum(method.adversary(x).values())

    first = loss()
    for _ in range(5):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss() < first
    wild = Augmentor(0.4, "zeros")
    with torch.no_grad():
        wild.mu.copy_(torch.tensor([-3.0, 3, 0, 0, 0.1, 0])), wild.sigma.copy_(torch.tensor([-3.0, 3, 0, 0, 0.1, 0]))
    wild.project()
    torch.testing.assert_close(wild.mu.detach(), torch.tensor([-0.4, 0.4, 0, 0, 0.1, 0]))
    torch.testing.assert_close(wild.sigma.detach(), torch.tensor([0.0, 0.4, 0, 0, 0.1, 0]))


def test_the_switch_waits_between_its_thresholds_and_only_then_does_the_augmentor_move() -> None:
    world = vision_world()
    method = HardAug(world.student(), world.teachers[0], low=0.3, high=0.6, memory=0.5)
    mean, chasing, seen = 1.0, False, []
    for share in (0.5, 0.5, 0.2, 0.2, 0.0, 0.5, 0.9, 0.4, 0.9, 0.4, 0.2, 0.1, 0.1):
        method.follow(torch.tensor(share))
        mean = 0.5 * mean + 0.5 * share
        chasing = mean <= 0.6 if chasing else mean < 0.3
        assert float(method.share) == pytest.approx(mean) and bool(method.chasing) == chasing
        seen.append(chasing)
    assert sorted(set(seen)) == [False, True] and sum(a != b for a, b in itertools.pairwise(seen)) >= 3
    for chasing in (False, True):
        method = HardAug(world.student(), world.teachers[0])
        method.chasing.fill_(chasing)
        before = method.augmentor.sigma.detach().clone()
        fit(method, world.data.with_data(world.train), SGD, steps=1)
        assert torch.equal(method.augmentor.sigma.detach(), before) != chasing
