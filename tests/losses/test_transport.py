import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.losses.transport import matching_cost, sinkhorn, transport_cost

torch.set_num_threads(1)
few = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 10**6)


def cost(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_sinkhorn(C, epsilon, iterations):
    """Cuturi's scaling of K = exp(-C / epsilon)."""
    n, m = C.shape
    K = np.exp(-C / epsilon)
    u, v = np.ones(n), np.ones(m)
    for _ in range(iterations):
        v = (1 / m) / (K.T @ u)
        u = (1 / n) / (K @ v)
    return u[:, None] * K * v[None, :]


@few
@given(seeds, st.integers(2, 6), st.integers(2, 6), st.sampled_from([0.05, 0.3, 2.0]), st.sampled_from([1, 7]))
def test_equals_a_slow_sinkhorn(seed, n, m, epsilon, iterations):
    C = cost(seed, n, m)
    plan = sinkhorn(C, epsilon, iterations)
    np.testing.assert_allclose(plan, slow_sinkhorn(C.numpy(), epsilon, iterations), rtol=1e-8)
    np.testing.assert_allclose(plan.sum(1), 1 / n, rtol=1e-9)
    assert transport_cost(C, plan).item() == pytest.approx(float((C * plan).sum()))


@few
@given(seeds)
def test_converges_to_both_marginals_and_to_the_entropic_optimum(seed):
    C, epsilon = cost(seed, 4, 5), 0.2
    plan = sinkhorn(C, epsilon, 400)
    np.testing.assert_allclose(plan.sum(0), 1 / 5, rtol=1e-6)
    np.testing.assert_allclose(plan.sum(1), 1 / 4, rtol=1e-9)

    def objective(P):
        return (P * C + epsilon * P * P.log()).sum()

    swap = torch.zeros(4, 5, dtype=torch.float64)
    swap[0, 0] = swap[1, 1] = 1.0
    swap[0, 1] = swap[1, 0] = -1.0  # keeps both marginals
    step = 0.1 * plan[:2, :2].min()
    assert objective(plan + step * swap) > objective(plan) and objective(plan - step * swap) > objective(plan)


def test_small_epsilon_finds_the_assignment_without_underflow():
    order = torch.tensor([2, 0, 3, 1])
    C = 1 - torch.eye(4)[order]
    plan = sinkhorn(C, 1e-4, 20)  # exp(-1 / 1e-4) is zero in any precision
    torch.testing.assert_close(plan, torch.eye(4)[order] / 4)
    assert transport_cost(C, plan) < 1e-6


def test_large_epsilon_is_uniform():
    torch.testing.assert_close(sinkhorn(cost(0, 3, 4), 1e6, 3), torch.full((3, 4), 1 / 12, dtype=torch.float64))


def test_gradients_batches_precision_and_input():
    C = cost(1, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda C: transport_cost(C, sinkhorn(C, 0.3, 5)), C)
    batch = cost(2, 2, 3, 4)
    plans = sinkhorn(batch, 0.1, 10)
    torch.testing.assert_close(plans, torch.stack([sinkhorn(c, 0.1, 10) for c in batch]))
    assert transport_cost(batch, plans).shape == (2,)
    for dtype in (torch.float16, torch.bfloat16):
        half = cost(3, 8, 8).to(dtype)
        got = sinkhorn(half, 0.05, 50)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), sinkhorn(half.double(), 0.05, 50), rtol=1e-4, atol=1e-7)
    for epsilon, iterations in ((0.0, 5), (0.1, 0)):
        with pytest.raises(InputError):
            sinkhorn(batch, epsilon, iterations)


def test_the_matching_cost_finds_the_permutation_and_its_gradient_leaves_the_plan_alone():
    t, s, far = (torch.nn.functional.normalize(cost(k, 6, 16) - 0.5) for k in range(3))
    assert float(matching_cost(t[[3, 0, 5, 1, 4, 2]], t, 0.01, 200)) < 1e-3, "equal sets in another order cost nothing"
    assert float(matching_cost(s, t, 0.01, 200)) > 0.1
    far.requires_grad_(True)
    [slope] = torch.autograd.grad(matching_cost(far, t, 0.1, 200), far)
    plan = sinkhorn((1 - t @ far.T).detach(), 0.1, 200)
    torch.testing.assert_close(slope, -plan.T @ t)
