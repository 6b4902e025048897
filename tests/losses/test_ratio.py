"""Ratio weights: what f they come from, their derivatives, where they pull."""

import pytest
import torch
from torch import Tensor

from limbeck.losses.ratio import Divergence, density_ratio, weights

F: dict[Divergence, object] = {
    "reverse_kl": lambda r: -r.log(),
    "softened_reverse_kl": lambda r: (1 + r) * ((1 + r) / r).log(),
    "jensen_shannon": lambda r: r * r.log() - (1 + r) * ((1 + r) / 2).log(),
    "hellinger": lambda r: 2 * (1 - r.sqrt()) ** 2,
    "forward_kl": lambda r: r * r.log(),
    "jeffreys": lambda r: (r - 1) * r.log(),
    "chi_squared": lambda r: (r - 1) ** 2,
    "neyman": lambda r: (1 - r) ** 2 / (2 * r),
}


def slope(y: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(y.sum(), x, create_graph=True)[0] if y.requires_grad else torch.zeros_like(x)


@pytest.mark.parametrize("name", list(F))
def test_the_weights_are_those_of_f(name: Divergence) -> None:
    """h = r^2 f'', r h' and r^2 h'', by automatic differentiation."""
    r = torch.logspace(-1, 1.3, 40, dtype=torch.float64).requires_grad_()
    found = weights(name, r)
    h = r.square() * slope(slope(F[name](r), r), r)  # type: ignore[operator]
    assert torch.allclose(found.h, h)
    assert torch.allclose(found.slope, r * slope(h, r))
    assert torch.allclose(found.curvature, r.square() * slope(slope(h, r), r))


def test_covering_divergences_weigh_what_is_missing() -> None:
    r = torch.tensor([0.2, 1.0, 5.0])
    rises = {name: float(weights(name, r).h[2] - weights(name, r).h[0]) for name in F}
    assert {name for name, rise in rises.items() if rise > 0} == set(F) - {
        "reverse_kl",
        "softened_reverse_kl",
        "neyman",
    }
    assert rises["reverse_kl"] == 0


def test_the_ratio_is_the_discriminators_odds() -> None:
    logits = torch.tensor([-50.0, 0.0, 1.0, 50.0], requires_grad=True)
    r = density_ratio(logits)
    assert torch.allclose(r, torch.tensor([0.1, 1.0, torch.e, 20.0])) and not r.requires_grad
