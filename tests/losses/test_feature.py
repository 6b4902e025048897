import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.losses import feature

torch.set_num_threads(1)
few = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 10**6)


def pair(seed=0, *shape):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape or (3, 4, 2, 5), generator=g, dtype=torch.float64) for _ in range(2)]


LOSSES = {
    "mse": feature.mse,
    "half_squared": feature.half_squared,
    "smooth_l1": lambda s, t: feature.smooth_l1(s, t, 0.7),
    "cosine": lambda s, t: feature.cosine(s.flatten(1), t.flatten(1)),
    "attention_transfer": feature.attention_transfer,
    "norm_direction": lambda s, t: feature.norm_direction(s.flatten(1), t.flatten(1), t.flatten(1) * 3),
}


@pytest.mark.parametrize("name", LOSSES)
def test_zero_at_equality_positive_elsewhere_with_true_gradients(name):
    @few
    @given(seeds)
    def check(seed):
        s, t = pair(seed)
        value = LOSSES[name](s, t)
        assert value.shape == (3,) and (value > 1e-6).all()
        torch.testing.assert_close(LOSSES[name](s, s.clone()), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)

    check()
    s, t = pair()
    assert torch.autograd.gradcheck(LOSSES[name], (s.requires_grad_(), t.requires_grad_()))
    collapsed = torch.zeros_like(s).requires_grad_()
    LOSSES[name](collapsed, t.detach()).sum().backward()
    assert collapsed.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype):
    s, t = (x.to(dtype) for x in pair(1, 3, 8, 16, 16))
    got, wanted = LOSSES[name](s, t), LOSSES[name](s.double(), t.double())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-6)


def test_definitions_element_by_element():
    s, t = pair()
    for i in range(3):
        gaps = (s - t)[i].flatten().tolist()
        assert feature.mse(s, t)[i].item() == pytest.approx(sum(g * g for g in gaps) / len(gaps))
        assert feature.half_squared(s, t)[i].item() == pytest.approx(sum(g * g for g in gaps) / 2)
        for beta in (0.5, 2.0):
            huber = [g * g / 2 / beta if abs(g) < beta else abs(g) - beta / 2 for g in gaps]
            assert feature.smooth_l1(s, t, beta)[i].item() == pytest.approx(sum(huber) / len(gaps))
        assert feature.smooth_l1(s, t, 0.0)[i].item() == pytest.approx(sum(abs(g) for g in gaps) / len(gaps))


@few
@given(seeds, st.floats(0.01, 100))
def test_cosine_ignores_length(seed, scale):
    s, t = pair(seed, 3, 7)
    torch.testing.assert_close(feature.cosine(scale * s, t), feature.cosine(s, t))
    torch.testing.assert_close(feature.cosine(s, -scale * s), torch.full((3,), 2.0, dtype=torch.float64))
    reference = 1 - torch.nn.functional.cosine_similarity(s, t)
    torch.testing.assert_close(feature.cosine(s, t), reference)


def test_cosine_of_a_zero_vector():
    s, t = pair(0, 2, 5)
    s[0] = 0
    s.requires_grad_()
    value = feature.cosine(s, t)
    value.sum().backward()
    assert value[0] == 1 and (s.grad[0] == 0).all() and (s.grad[1] != 0).any()


def slow_attention(x, p):
    C, H, W = x.shape
    q = np.array([sum(abs(x[c, h, w]) ** p for c in range(C)) for h in range(H) for w in range(W)])
    return q / math.sqrt((q**2).sum())


@pytest.mark.parametrize("p", [1.0, 2.0, 4.0])
def test_attention_maps_equal_the_slow_ones(p):
    s, t = pair(0, 3, 6, 2, 5)[0], pair(1, 3, 4, 2, 5)[0]  # another number of channels
    maps = [np.array([slow_attention(x, p) for x in batch.numpy()]) for batch in (s, t)]
    np.testing.assert_allclose(feature.attention_map(s, p), maps[0])
    np.testing.assert_allclose(feature.attention_transfer(s, t, p), np.sqrt(((maps[0] - maps[1]) ** 2).sum(-1)))
    torch.testing.assert_close(feature.attention_transfer(3 * s, -t, p), feature.attention_transfer(s, t, p))


def test_norm_direction_pushes_length_then_turns():
    s, t = pair(2, 4, 6)
    mean = pair(3, 4, 6)[0]
    e = mean / mean.norm(dim=-1, keepdim=True)
    short = (0.1 * s / s.norm(dim=-1, keepdim=True)).requires_grad_()
    (grad,) = torch.autograd.grad(feature.norm_direction(short, t, mean).sum(), short)
    torch.testing.assert_close(grad, -e / t.norm(dim=-1, keepdim=True))
    long = (100 * s).requires_grad_()
    value = feature.norm_direction(long, t, mean)
    torch.testing.assert_close(value, feature.cosine(long, mean))
    (grad,) = torch.autograd.grad(value.sum(), long)
    torch.testing.assert_close((grad * long).sum(-1), torch.zeros(4, dtype=torch.float64))  # no pull along its length
    zero = torch.zeros(4, 6)
    assert (feature.norm_direction(zero, zero, mean.float()) == 1).all()


def test_nothing_broadcasts():
    s, t = pair()
    for f in LOSSES.values():
        with pytest.raises(InputError, match="same"):
            f(s, t[:1])
    with pytest.raises(InputError, match="p"):
        feature.attention_map(s, 0.5)
