import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.losses import relation

torch.set_num_threads(1)
few = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 10**6)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed, d):
    return torch.linalg.qr(normal(seed, d, d)).Q


def huber(a, b):
    gap = abs(a - b)
    return gap * gap / 2 if gap <= 1 else gap - 0.5


def slow_distance(s, t):
    def psi(x):
        B = len(x)
        d = [[math.dist(x[i], x[j]) for j in range(B)] for i in range(B)]
        positive = [v for row in d for v in row if v > 0]
        return [[v * len(positive) / sum(positive) for v in row] for row in d]

    a, b = psi(s), psi(t)
    B = len(s)
    return [sum(huber(a[i][j], b[i][j]) for j in range(B)) / B for i in range(B)]


def slow_angle(s, t):
    def psi(x, i, j, k):
        u, v = x[j] - x[i], x[k] - x[i]
        length = np.linalg.norm(u) * np.linalg.norm(v)
        return float(u @ v) / length if length else 0.0

    B = len(s)
    losses = []
    for i in range(B):
        total = 0.0
        for j in range(B):
            for k in range(B):
                total += huber(psi(s, i, j, k), psi(t, i, j, k))
        losses.append(total / B**2)
    return losses


LOSSES = {
    "rkd_distance": relation.rkd_distance,
    "rkd_angle": relation.rkd_angle,
    "similarity_preserving": relation.similarity_preserving,
    "1 - cka": lambda s, t: 1 - relation.cka(s, t).expand(len(s)),
}


@few
@given(seeds)
def test_rkd_equals_explicit_loops(seed):
    s, t = 3 * normal(seed, 5, 4), normal(seed + 1, 5, 3)
    s[0] *= 20  # distances beyond the Huber's knee
    np.testing.assert_allclose(relation.rkd_distance(s, t), slow_distance(s.numpy(), t.numpy()), rtol=1e-9)
    np.testing.assert_allclose(relation.rkd_angle(s, t), slow_angle(s.numpy(), t.numpy()), rtol=1e-9)


@few
@given(seeds, st.floats(0.05, 20))
def test_rkd_ignores_rotation_shift_and_scale(seed, scale):
    s, t = normal(seed, 6, 4), normal(seed + 1, 6, 3)
    moved = scale * s @ rotation(seed + 2, 4) + normal(seed + 3, 4)
    for f in (relation.rkd_distance, relation.rkd_angle):
        torch.testing.assert_close(f(moved, t), f(s, t), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(f(t, moved), f(t, s), rtol=1e-6, atol=1e-9)
        assert (f(s * torch.tensor([1.0, 1, 1, 5], dtype=torch.float64), s) > 1e-4).any()  # but not one axis alone


def test_the_students_mean_distance_carries_gradient():
    s, t = normal(0, 6, 4).requires_grad_(), normal(1, 6, 3)
    (grad,) = torch.autograd.grad(relation.rkd_distance(s, t).mean(), s)
    # The loss ignores the scale of s, so its gradient is orthogonal to s; with mu detached it is not.
    assert abs((grad * s).sum().item()) < 1e-12 and grad.abs().max() > 1e-4


@pytest.mark.parametrize("name", LOSSES)
def test_zero_at_equality_with_true_gradients(name):
    @few
    @given(seeds)
    def check(seed):
        s, t = normal(seed, 6, 4), normal(seed + 1, 6, 3)
        value = LOSSES[name](s, t)
        assert value.shape == (6,) and (value > 1e-6).all()
        torch.testing.assert_close(LOSSES[name](s, s.clone()), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0)

    check()
    s, t = normal(0, 5, 4).requires_grad_(), normal(1, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(LOSSES[name], (s, t))
    with pytest.raises(InputError, match="batch"):
        LOSSES[name](s, t[:1])


@pytest.mark.parametrize("name", LOSSES)
def test_collapsed_and_repeated_rows_are_safe(name):
    t = normal(1, 5, 3)
    for s in (torch.zeros(5, 4, dtype=torch.float64), normal(0, 5, 4)[[0, 0, 1, 2, 2]]):
        s.requires_grad_()
        value = LOSSES[name](s, t)
        value.sum().backward()
        assert value.isfinite().all() and s.grad.isfinite().all()
        assert LOSSES[name](t, s.detach()).isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(name, dtype):
    s, t = (10 * normal(0, 16, 32)).to(dtype), normal(1, 16, 64).to(dtype)
    got, wanted = LOSSES[name](s, t), LOSSES[name](s.double(), t.double())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(LOSSES[name](s.float(), t.float()), got)


def test_pairwise_distances():
    x = normal(0, 5, 3)
    x[1] = x[0]
    x.requires_grad_()
    d = relation.pairwise_distances(x)
    wanted = [[math.dist(a, b) for b in x.tolist()] for a in x.tolist()]
    np.testing.assert_allclose(d.detach(), wanted, atol=1e-12)
    (grad,) = torch.autograd.grad(d[0, 1] + d.diagonal().sum(), x)
    assert (grad == 0).all()
    # Far from the origin, |x|^2 + |y|^2 - 2 x.y would lose everything in float32.
    far = torch.tensor([[1e4, 0.0], [1e4, 0.01]])
    assert relation.pairwise_distances(far)[0, 1].item() == pytest.approx(0.01, rel=1e-3)


def test_gram_and_similarity_preserving():
    x = normal(0, 4, 2, 3)
    flat = x.flatten(1).numpy()
    G = flat @ flat.T
    G /= np.sqrt((G**2).sum(1, keepdims=True))
    np.testing.assert_allclose(relation.gram(x), G)
    y = normal(1, 4, 5)
    paper = ((relation.gram(x) - relation.gram(y)) ** 2).sum() / 16
    torch.testing.assert_close(relation.similarity_preserving(x, y).mean(), paper)


def slow_cka(x, y):
    n = len(x)
    H = np.eye(n) - 1 / n
    K, L = H @ x @ x.T @ H, H @ y @ y.T @ H
    return np.trace(K @ L) / math.sqrt(np.trace(K @ K) * np.trace(L @ L))


@few
@given(seeds, st.sampled_from([(5, 8, 9), (20, 3, 4), (8, 2, 40)]), st.floats(0.01, 100))
def test_cka_equals_the_definition_and_ignores_rotation_shift_and_scale(seed, sizes, scale):
    n, a, b = sizes
    x, y = normal(seed, n, a), normal(seed + 1, n, b)
    value = relation.cka(x, y)
    assert value.item() == pytest.approx(slow_cka(x.numpy(), y.numpy()))
    assert 0 <= value <= 1
    torch.testing.assert_close(relation.cka(y, x), value)
    torch.testing.assert_close(relation.cka(scale * x @ rotation(seed + 2, a) + normal(seed + 3, a), y), value)
    stretched = x * torch.linspace(1, 10, a, dtype=torch.float64)
    assert (relation.cka(stretched, x) - 1).abs() > 1e-4  # not invariant to every linear map


def test_cka_survives_large_features_in_float32():
    x, y = normal(0, 64, 256), normal(1, 64, 256) + normal(0, 64, 256)
    torch.testing.assert_close(
        relation.cka(1e6 * x.float(), 1e6 * y.float()).double(), relation.cka(x, y), rtol=1e-4, atol=0
    )
