"""The private gradient against a slow form, its noise in numbers, the budget against opacus's own accountant."""

import math

import pytest
import torch
from torch import nn

from limbeck.core.privacy import Mechanism, private_gradient
from limbeck.errors import InputError


def test_gradient_is_the_clipped_sum_over_the_expected_batch():
    torch.manual_seed(0)
    net, x = nn.Linear(3, 2), torch.randn(5, 3)
    twice = [net.weight, net.bias]
    found = private_gradient((net(row).square().sum() for row in x), twice, 0.5, Mechanism(100, 4, 0.0, 1e-2))
    wanted, cut = [torch.zeros_like(p) for p in twice], 0
    for row in x:
        g = torch.autograd.grad(net(row).square().sum(), twice)
        length = math.sqrt(sum(float(part.square().sum()) for part in g))
        wanted = [w + part * min(1, 0.5 / length) / 4 for w, part in zip(wanted, g)]
        cut += length > 0.5
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found.gradient, wanted))
    assert float(found.clipped) == pytest.approx(cut / 5) and cut > 0
    assert float(found.loss) == pytest.approx(float(net(x).square().sum().detach()) / 5, rel=1e-5)


def test_one_record_moves_the_sum_by_no_more_than_the_norm():
    torch.manual_seed(0)
    net, x = nn.Linear(3, 2), torch.randn(6, 3) * 50
    both = [
        private_gradient(
            (net(row).square().sum() for row in rows), list(net.parameters()), 0.7, Mechanism(9, 1, 0.0, 0.1)
        )
        for rows in (x, x[:-1])
    ]
    apart = math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(both[0].gradient, both[1].gradient)))
    assert apart == pytest.approx(0.7, rel=1e-3)


def test_noise_is_sigma_c_over_the_expected_batch_even_without_records():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(200, 200))
    found = private_gradient([], [weight], 0.5, Mechanism(100, 8, 3.0, 1e-2))
    assert float(found.gradient[0].std()) == pytest.approx(3.0 * 0.5 / 8, rel=0.02)
    assert float(found.loss) == 0 and abs(float(found.gradient[0].mean())) < 1e-2


def test_budget_is_opacus_own_and_is_kept():
    pytest.importorskip("opacus")
    from opacus.accountants import RDPAccountant

    made = Mechanism.within(2.0, 1e-3, records=500, batch=25, steps=40)
    accountant = RDPAccountant()
    for _ in range(40):
        accountant.step(noise_multiplier=made.noise, sample_rate=0.05)
    assert made.epsilon(40) == pytest.approx(accountant.get_epsilon(1e-3), rel=1e-9)
    assert 1.9 < made.epsilon(40) <= 2.0 and made.epsilon(10) < made.epsilon(40) < made.epsilon(80)
    assert made.epsilon(0) == 0 and Mechanism(500, 25, 0.0, 1e-3).epsilon(1) == math.inf
    assert Mechanism.within(8.0, 1e-3, records=500, batch=25, steps=40).noise < made.noise
    with pytest.raises(InputError, match="epsilon"):
        Mechanism.within(1e-6, 1e-9, records=10, batch=10, steps=10_000)
    for wrong in ({"batch": 11}, {"batch": 0}, {"delta": 1.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Mechanism.within(2.0, **{"delta": 1e-3, "records": 10, "batch": 5, "steps": 3, **wrong})
