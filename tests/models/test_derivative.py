"""Derivatives along a direction, held against each other and against what is known."""

import pytest
import torch

from limbeck.models.derivative import Derivative, derivative
from limbeck.models.diffusers_net import unet
from limbeck.models.tiny_denoiser import mlp


@pytest.mark.parametrize("how", ["jvp", "fd"])
def test_a_known_derivative(how: Derivative) -> None:
    x, t = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    d = torch.randn(5, 3, dtype=torch.float64)
    value, slope = derivative(lambda x, t: x.sin() * t[:, None] ** 2, (x, t), (d, 2 * torch.ones_like(t)), how, 1e-5)
    torch.testing.assert_close(value, x.sin() * t[:, None] ** 2)
    torch.testing.assert_close(slope, x.cos() * d * t[:, None] ** 2 + 4 * t[:, None] * x.sin(), rtol=1e-6, atol=1e-7)


def test_of_a_network_both_ways_agree_and_leave_no_graph() -> None:
    torch.manual_seed(0)
    model = mlp(16, 2, shape=(1, 2, 2), classes=3).double()
    x, t, y = torch.randn(6, 1, 2, 2).double(), (0.1 + 0.8 * torch.rand(6)).double(), torch.arange(6) % 3

    def f(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return model(x, t, y).x0

    direction = (torch.randn_like(x), torch.ones_like(t))
    exact = derivative(f, (x, t), direction)
    near = derivative(f, (x, t), direction, "fd", 1e-5)
    torch.testing.assert_close(exact, near, rtol=1e-4, atol=1e-6)
    assert not exact[0].requires_grad and not exact[1].requires_grad


def test_of_a_diffusers_network_with_fused_attention_and_channels_last() -> None:
    torch.manual_seed(0)
    model = unet((8, 16), shape=(1, 4, 4)).double()
    x, t = torch.randn(3, 1, 4, 4).double(), (0.2 + 0.6 * torch.rand(3)).double()

    def f(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return model(x, t).v

    direction = (torch.randn_like(x), torch.zeros_like(t))  # its embedding of times is in single precision
    exact, near = derivative(f, (x, t), direction), derivative(f, (x, t), direction, "fd", 1e-5)
    torch.testing.assert_close(exact, near, rtol=1e-4, atol=1e-5)
