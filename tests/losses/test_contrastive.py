import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.losses.contrastive import channel_contrast, info_nce, nce_bank, sample_contrast

torch.set_num_threads(1)
few = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 10**6)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@few
@given(seeds, st.integers(0, 3), st.booleans())
def test_info_nce_equals_a_slow_loop(seed, extra, masked):
    u, v = normal(seed, 4, 3), normal(seed + 1, 4 + extra, 3)
    mask = normal(seed + 2, 4, 4 + extra) > 0 if masked else None
    wanted = []
    for i in range(4):
        keys = [j for j in range(len(v)) if mask is None or j == i or mask[i, j]]
        terms = {j: math.exp((u[i] @ v[j]).item() / 0.5) for j in keys}
        wanted.append(-math.log(terms[i] / sum(terms.values())))
    np.testing.assert_allclose(info_nce(u, v, 0.5, mask), wanted, rtol=1e-7, atol=1e-12)


def test_info_nce_limits_and_gradients():
    u, v = normal(0, 5, 3).requires_grad_(), normal(1, 7, 3).requires_grad_()
    mask = normal(2, 5, 7) > 0
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u, v, tau: info_nce(u, v, tau, mask), (u, v, tau))
    torch.testing.assert_close(info_nce(u, v, 1e9), torch.full((5,), math.log(7), dtype=torch.float64))
    alone = info_nce(u, v, 0.1, torch.zeros(5, 7, dtype=torch.bool))
    assert (alone.abs() < 1e-12).all()
    matched = info_nce(10 * torch.eye(3), torch.eye(3), 0.1)
    assert (matched < 1e-6).all()
    with pytest.raises(InputError, match="key"):
        info_nce(v, u, 0.1)
    with pytest.raises(InputError, match="temperature"):
        info_nce(u, v, 0.0)


@few
@given(seeds, st.floats(0.01, 10))
def test_nce_bank_equals_the_definition(seed, ratio):
    positive, negatives = 3 * normal(seed, 4), 3 * normal(seed + 1, 4, 6)
    h = lambda s: s.exp() / (s.exp() + ratio)  # noqa: E731
    wanted = -h(positive).log() - (1 - h(negatives)).log().sum(-1)
    torch.testing.assert_close(nce_bank(positive, negatives, ratio), wanted)


def test_nce_bank_gradients_and_extremes():
    positive, negatives = normal(0, 4).requires_grad_(), normal(1, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, n: nce_bank(p, n, 0.2), (positive, negatives))
    # The optimal critic is the density ratio: at log ratio h is one half, and both pulls vanish far beyond.
    at = torch.full((1,), math.log(0.2))
    torch.testing.assert_close(nce_bank(at, at[:, None], 0.2), torch.tensor([2 * math.log(2)]))
    assert nce_bank(torch.tensor([200.0]), torch.full((1, 5), -200.0), 0.2).item() == 0
    assert nce_bank(torch.tensor([-200.0]), torch.full((1, 5), 200.0), 0.2).isfinite().all()
    with pytest.raises(InputError, match="noise_ratio"):
        nce_bank(positive, negatives, 0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype):
    u, v = (torch.nn.functional.normalize(normal(i, 8, 32), dim=-1).to(dtype) for i in (0, 1))
    got, wanted = info_nce(u, v, 0.07), info_nce(u.double(), v.double(), 0.07)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(info_nce(u.float(), v.float(), 0.07), got)
    p, n = normal(2, 8).to(dtype), normal(3, 8, 500).to(dtype)
    got = nce_bank(p, n, 0.1)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), nce_bank(p.double(), n.double(), 0.1), rtol=1e-5, atol=1e-5)


def test_sample_and_channel_contrast_equal_a_slow_reference():
    u, v = normal(0, 6, 5), normal(1, 6, 5)
    image, agrees = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1, 0, 1, 1, 0, 1]).bool()

    def slow(a: np.ndarray, b: np.ndarray, allowed: np.ndarray) -> list[float]:
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
        score = np.exp(a @ b.T / 0.5)
        return [-np.log(score[i, i] / sum(score[i, j] for j in np.flatnonzero(allowed[i]))) for i in range(len(a))]

    allowed = np.array(
        [[i == j or bool(image[i] != image[j] and agrees[i] == agrees[j]) for j in range(6)] for i in range(6)]
    )
    assert allowed.sum() not in (6, 36)
    assert sample_contrast(u, v, image, agrees, 0.5).tolist() == pytest.approx(slow(u.numpy(), v.numpy(), allowed))
    everyone = np.ones((5, 5), bool)
    assert channel_contrast(u, v, 0.5).tolist() == pytest.approx(slow(u.numpy().T, v.numpy().T, everyone))
