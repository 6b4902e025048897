"""One outcome against all others: the plain formula, its limit in tau, certainty."""

import math

import pytest
import torch

from limbeck.losses.bernoulli import binary_kl, log1mexp


def test_binary_kl_in_numbers():
    p, q = torch.tensor([-2.3]), torch.tensor([-4.1])
    for tau, wanted in ((1, 0.100), (10, 0.417), (100, 0.465), (math.inf, 0.470)):
        assert float(binary_kl(p, q, tau)) == pytest.approx(wanted, abs=6e-4)
    u, v = math.exp(-2.3), math.exp(-4.1)
    plain = u * math.log(u / v) + (1 - u) * math.log((1 - u) / (1 - v))
    assert float(binary_kl(p, q, 1)) == pytest.approx(plain, rel=1e-4)
    x = torch.tensor([-1e-9, -1e-3, -0.5, -5.0, -50.0], dtype=torch.float64)
    assert torch.allclose(log1mexp(x), torch.log(-torch.expm1(x)), rtol=1e-12)
    assert torch.isfinite(binary_kl(torch.tensor([0.0, -800.0]), torch.tensor([-800.0, 0.0]), 100)).all()
