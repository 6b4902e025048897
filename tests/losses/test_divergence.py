import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses import divergence as dv
from limbeck.losses.targets import drop_label

torch.set_num_threads(1)
few = settings(max_examples=80, deadline=None)
logits = hnp.arrays(np.float64, (3, 5), elements=st.floats(-20, 20, width=32)).map(torch.from_numpy)
shares = st.floats(0.01, 0.99)

DIVERGENCES = {
    "kl": dv.kl,
    "jeffreys": dv.jeffreys,
    "js": dv.js,
    "generalised_jsd": lambda p, q: dv.generalised_jsd(p, q, 0.2),
    "skewed_kl": lambda p, q: dv.skewed_kl(p, q, 0.1),
    "skewed_reverse_kl": lambda p, q: dv.skewed_reverse_kl(p, q, 0.1),
    "total_variation": dv.total_variation,
}
ALL = DIVERGENCES | {"cross_entropy": dv.cross_entropy, "entropy": lambda p, q: dv.entropy(p) + dv.entropy(q)}


def slow(name: str, z_p: Tensor, z_q: Tensor) -> np.ndarray:
    """The definitions, class by class in Python floats."""

    def kl(p: list[float], q: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(p, q) if a)

    def mix(p: list[float], q: list[float], a: float) -> list[float]:
        return [a * x + (1 - a) * y for x, y in zip(p, q)]

    def h(p: list[float]) -> float:
        return -sum(a * math.log(a) for a in p if a)

    def one(p: list[float], q: list[float]) -> float:
        half, fifth = mix(p, q, 0.5), mix(p, q, 0.2)
        return {
            "kl": lambda: kl(p, q),
            "jeffreys": lambda: kl(p, q) + kl(q, p),
            "js": lambda: (kl(p, half) + kl(q, half)) / 2,
            "generalised_jsd": lambda: 0.2 * kl(p, fifth) + 0.8 * kl(q, fifth),
            "skewed_kl": lambda: kl(p, mix(p, q, 0.1)),
            "skewed_reverse_kl": lambda: kl(q, mix(p, q, 0.9)),
            "total_variation": lambda: sum(abs(a - b) for a, b in zip(p, q)) / 2,
            "cross_entropy": lambda: -sum(a * math.log(b) for a, b in zip(p, q) if a),
            "entropy": lambda: h(p) + h(q),
        }[name]()

    def row(z: list[float]) -> list[float]:
        e = [math.exp(v - max(z)) for v in z]
        return [v / sum(e) for v in e]

    return np.array([one(row(a), row(b)) for a, b in zip(z_p.tolist(), z_q.tolist())])


def example(seed: int = 0, *shape: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    a, b = 2 * torch.randn((2, *(shape or (4, 6))), generator=g, dtype=torch.float64)
    return a, b


@pytest.mark.parametrize("name", ALL)
def test_equals_the_definition(name):
    @few
    @given(logits, logits)
    def check(a, b):
        np.testing.assert_allclose(ALL[name](dv.soft_log(a), dv.soft_log(b)), slow(name, a, b), rtol=1e-7, atol=1e-9)

    check()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_is_not_negative_and_zero_only_at_equality(name):
    @few
    @given(logits, logits)
    def check(a, b):
        p, q = dv.soft_log(a), dv.soft_log(b)
        assert (DIVERGENCES[name](p, q) >= -1e-9).all()
        assert (DIVERGENCES[name](p, p).abs() <= 1e-9).all()
        apart = dv.total_variation(p, q) > 0.05
        assert (DIVERGENCES[name](p, q)[apart] > 1e-5).all()  # Pinsker: the skewed ones shrink TV by 0.9 at most

    check()


@pytest.mark.parametrize("name", ALL)
def test_gradients_agree_with_finite_differences(name):
    a, b = example()
    a.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: ALL[name](dv.soft_log(a, 2.0), dv.soft_log(b)), (a, b))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype):
    a, b = (x.to(dtype) for x in example(1, 4, 2000))
    got = ALL[name](dv.soft_log(a, 2.0), dv.soft_log(b, 2.0))
    wanted = ALL[name](dv.soft_log(a.double(), 2.0), dv.soft_log(b.double(), 2.0))
    assert got.dtype == torch.float32
    # The inputs are the same numbers, so only float32 rounding over 2000 classes may show; half errs by 1e-2.
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5)
    p, q = dv.soft_log(a).to(dtype), dv.soft_log(b).to(dtype)
    torch.testing.assert_close(ALL[name](p, q).double(), ALL[name](p.double(), q.double()), rtol=1e-4, atol=1e-5)


ENDS = {
    f"{f.__name__} at {share:g}": lambda p, q, f=f, share=share: f(p, q, share)
    for f in (dv.generalised_jsd, dv.skewed_kl, dv.skewed_reverse_kl)
    for share in (0.0, 1.0)
}


@pytest.mark.parametrize("name", ALL | ENDS)
def test_masked_columns_equal_dropped_columns(name):
    f = (ALL | ENDS)[name]
    keep = torch.tensor([True, False, True, True, False, True])
    grads, values = [], []
    for masked in (True, False):
        a, b = (x.requires_grad_() for x in example(2))
        columns = [x.masked_fill(~keep, -math.inf) if masked else x[:, keep] for x in (a, b)]
        tau = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
        value = f(dv.soft_log(columns[0], tau), dv.soft_log(columns[1], 0.7))
        value.square().sum().backward()
        values.append(value.detach())
        grads.append((a.grad, b.grad, tau.grad))
    torch.testing.assert_close(values[0], values[1])
    for masked, dropped in zip(*grads):
        torch.testing.assert_close(masked, dropped)
    assert (grads[0][0][:, ~keep] == 0).all()


def test_one_sided_support():
    p = dv.soft_log(torch.tensor([[0.0, 1.0, -math.inf]]))
    q = dv.soft_log(torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True))
    assert dv.kl(p, q).isfinite().all()
    assert dv.kl(q, p).item() == math.inf
    for f in (dv.js, DIVERGENCES["skewed_reverse_kl"], dv.total_variation):
        value = f(p, q)
        assert value.isfinite().all()
        (grad,) = torch.autograd.grad(value.sum(), q, retain_graph=True)
        assert grad.isfinite().all() and grad.abs().sum() > 0
    assert dv.generalised_jsd(q, p, 0.0).item() == 0 and dv.generalised_jsd(p, q, 1.0).item() == 0


def test_a_probability_that_underflows_adds_nothing():
    p, q = torch.tensor([[0.0, -200.0]]), torch.tensor([[math.log(0.5), -math.inf]])
    assert dv.kl(p, q).item() == pytest.approx(math.log(2))


def test_nan_is_not_hidden():
    p, q = (dv.soft_log(x) for x in example())
    p[0, 0] = math.nan
    for name, f in ALL.items():
        assert f(p, q)[0].isnan(), name
        assert f(q, p)[0].isnan(), name
        assert f(p, q)[1:].isfinite().all(), name


@few
@given(logits, logits)
def test_jsd_limits_are_the_two_kls(a, b):
    p, q = dv.soft_log(a), dv.soft_log(b)
    beta = 1e-7
    for limit, ratio in (
        (dv.kl(p, q), dv.generalised_jsd(p, q, beta) / beta),
        (dv.kl(q, p), dv.generalised_jsd(p, q, 1 - beta) / beta),
    ):
        # The next order is beta * chi^2 / 2, and chi^2 <= exp(max log ratio).
        bound = beta * torch.maximum((p - q).abs().amax(-1).exp(), torch.tensor(1.0))
        assert ((ratio - limit).abs() <= 1e-6 + 1e-6 * limit + bound).all()
    assert (dv.generalised_jsd(p, q, 0.0) == 0).all() and (dv.generalised_jsd(p, q, 1.0) == 0).all()


@few
@given(logits, logits, shares)
def test_symmetries_and_bounds(a, b, share):
    p, q = dv.soft_log(a), dv.soft_log(b)
    close = torch.testing.assert_close
    close(dv.js(p, q), dv.js(q, p))
    close(dv.jeffreys(p, q), dv.jeffreys(q, p))
    close(dv.generalised_jsd(p, q, share), dv.generalised_jsd(q, p, 1 - share))
    close(dv.skewed_reverse_kl(p, q, share), dv.skewed_kl(q, p, share))
    close(dv.skewed_kl(p, q, 0.0), dv.kl(p, q))
    close(dv.skewed_reverse_kl(p, q, 0.0), dv.kl(q, p))
    close(dv.skewed_kl(p, q, 1.0), torch.zeros(3, dtype=torch.float64))
    assert (dv.js(p, q) <= math.log(2) + 1e-9).all()
    assert (dv.skewed_kl(p, q, share) <= -math.log(share) + 1e-9).all()
    assert (dv.entropy(p) <= math.log(5) + 1e-9).all() and (dv.entropy(p) >= 0).all()
    close(dv.cross_entropy(p, q), dv.kl(p, q) + dv.entropy(p))
    assert (dv.total_variation(p, q) <= (dv.kl(p, q) / 2).clamp_min(0).sqrt() + 1e-7).all()  # Pinsker


def test_a_share_may_differ_between_samples():
    p, q = (dv.soft_log(x) for x in example())
    share = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    for f in (dv.generalised_jsd, dv.skewed_kl, dv.skewed_reverse_kl):
        rows = torch.cat([f(p[i : i + 1], q[i : i + 1], s) for i, s in enumerate(share.tolist())])
        torch.testing.assert_close(f(p, q, share), rows)


def test_leading_axes_are_kept():
    a, b = example(3, 2, 3, 5)
    for name, f in ALL.items():
        got = f(dv.soft_log(a), dv.soft_log(b))
        flat = f(dv.soft_log(a.flatten(0, 1)), dv.soft_log(b.flatten(0, 1)))
        assert got.shape == (2, 3), name
        torch.testing.assert_close(got.flatten(), flat)


def test_soft_log_temperatures():
    z, _ = example()
    per_sample = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    rows = torch.stack([dv.soft_log(z[i], t) for i, t in enumerate(per_sample.tolist())])
    torch.testing.assert_close(dv.soft_log(z, per_sample), rows)
    torch.testing.assert_close(dv.soft_log(z, 2.0).exp(), (z / 2).softmax(-1))
    with pytest.raises(InputError, match="tau"):
        dv.soft_log(z, 0.0)


def test_distil_kl_is_hintons_loss():
    student, teacher = example()
    for tau in (1.0, 4.0):
        p, q = (teacher / tau).softmax(-1), (student / tau).softmax(-1)
        torch.testing.assert_close(dv.distil_kl(student, teacher, tau), tau**2 * (p * (p / q).log()).sum(-1))
    # Hinton et al., equation 4: for zero-mean logits the gradient tends to (z - v) / K; tau^2 keeps it from vanishing.
    student, teacher = student - student.mean(-1, keepdim=True), teacher - teacher.mean(-1, keepdim=True)
    student.requires_grad_()
    (grad,) = torch.autograd.grad(dv.distil_kl(student, teacher, 1e4).sum(), student)
    torch.testing.assert_close(grad, (student - teacher).detach() / 6, rtol=1e-2, atol=1e-3)


def test_soft_cross_entropy_takes_negative_targets():
    z, t = example()
    q = dv.soft_log(z)
    torch.testing.assert_close(dv.soft_cross_entropy(t, q), -(t * q).sum(-1))
    masked = dv.soft_log(z.masked_fill(torch.arange(6) == 2, -math.inf))
    t[:, 2] = 0
    assert dv.soft_cross_entropy(t, masked).isfinite().all()
    t.requires_grad_()
    assert torch.autograd.gradcheck(dv.soft_cross_entropy, (t, q))


@few
@given(logits, logits, st.integers(0, 4))
def test_full_kl_splits_into_target_and_non_target(a, b, label):
    """DKD (Zhao et al., 2022): KL = TCKD + (1 - p_t) NCKD; NKD: non-target CE = NCKD + the teacher's entropy."""
    labels = torch.full((3,), label)
    p, q = dv.soft_log(a), dv.soft_log(b)
    p_rest, q_rest = dv.soft_log(drop_label(a, labels)), dv.soft_log(drop_label(b, labels))
    p_t, q_t = p[:, label].exp(), q[:, label].exp()
    rest_p, rest_q = drop_label(p, labels).exp().sum(-1), drop_label(q, labels).exp().sum(-1)
    tckd = p_t * (p_t / q_t).log() + rest_p * (rest_p / rest_q).log()
    torch.testing.assert_close(dv.kl(p, q), tckd + rest_p * dv.kl(p_rest, q_rest), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(dv.cross_entropy(p_rest, q_rest), dv.kl(p_rest, q_rest) + dv.entropy(p_rest))


def test_refuses_what_it_cannot_use():
    p, q = (dv.soft_log(x) for x in example())
    for name, f in DIVERGENCES.items():
        with pytest.raises(InputError, match="same"):
            f(p, q[:1])
        assert name
    for beta in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="beta"):
            dv.generalised_jsd(p, q, beta)
        with pytest.raises(InputError, match="alpha"):
            dv.skewed_kl(p, q, beta)
