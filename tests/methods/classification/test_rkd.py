"""The equations of relational knowledge distillation."""

import numpy as np
import pytest
import torch

from limbeck.core.method import Clock
from limbeck.losses.relation import rkd_angle, rkd_distance
from limbeck.methods.classification.rkd import RKD
from tests.worlds import vision_world


def huber(x: float) -> float:
    return 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5


def slow(s: np.ndarray, t: np.ndarray) -> tuple[float, float]:
    """Pair by pair, triplet by triplet."""
    n = len(s)

    def distances(f: np.ndarray) -> np.ndarray:
        d = np.array([[np.linalg.norm(a - b) for b in f] for a in f])
        return d / d[d > 0].mean()

    def cosine(f: np.ndarray, i: int, j: int, k: int) -> float:
        a, b = f[i] - f[j], f[k] - f[j]
        size = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / size) if size > 0 else 0.0

    d_s, d_t = distances(s), distances(t)
    d = np.mean([huber(d_s[i, j] - d_t[i, j]) for i in range(n) for j in range(n)])
    triplets = [(i, j, k) for i in range(n) for j in range(n) for k in range(n)]
    a = np.mean([huber(cosine(s, i, j, k) - cosine(t, i, j, k)) for i, j, k in triplets])
    return float(d), float(a)


def test_terms_equal_the_loops_and_carry_their_weights() -> None:
    world = vision_world()
    student, teacher, batch = world.student(), world.teachers[0], world.batch(6)
    method = RKD(student, teacher, distance=25, angle=50).eval()
    terms = method.loss(batch, Clock(0, 1))
    with torch.no_grad():
        _, [s] = method.student_tap(student, batch.x)
        _, [t] = method.teacher_tap(teacher, batch.x)
    distance, angle = slow(s.double().numpy(), t.double().numpy())
    assert terms["distance"].item() == pytest.approx(25 * distance, rel=1e-4)
    assert terms["angle"].item() == pytest.approx(50 * angle, rel=1e-4)


def test_rotation_shift_and_uniform_scale_of_the_students_features_cost_nothing() -> None:
    torch.manual_seed(0)
    t = torch.randn(9, 5, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(7, 5, dtype=torch.float64)).Q  # also into another width
    s = 3.7 * t @ turn.T + torch.randn(7, dtype=torch.float64)
    assert rkd_distance(s, t).max() < 1e-12 and rkd_angle(s, t).max() < 1e-12
    stretched = s * torch.linspace(0.2, 3, 7, dtype=torch.float64)
    assert rkd_distance(stretched, t).mean() > 1e-3 and rkd_angle(stretched, t).mean() > 1e-3


def test_equal_samples_and_a_batch_of_one_give_finite_gradients() -> None:
    world = vision_world()
    method = RKD(world.student(), world.teachers[0], ce=0.0)
    for batch in (world.batch(1), world.batch(4)):
        twice = batch._replace(x=torch.cat([batch.x[:1]] * len(batch.x)))
        method.zero_grad()
        sum(method.loss(twice, Clock(0, 1)).values()).backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in method.parameters())
