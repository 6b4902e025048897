"""FreeFlow: the identity at the exact flow map, the corrector's direction, the derivative both ways, who moves when."""

import pytest
import torch
from torch import Tensor, nn

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.methods.diffusion.freeflow import FreeFlow
from limbeck.models.denoiser import Denoiser
from limbeck.models.derivative import Derivative
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.path import Flow
from limbeck.models.tiny_denoiser import mlp

MEAN, STD = torch.tensor([[2.0, -1.0]]).double(), 0.5


class Map(nn.Module):
    """The exact flow map of N(m, s^2) from noise z: x_r = (1 - r) m + z sqrt((1 - r)^2 s^2 + r^2)."""

    extras = 1

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.error = nn.Parameter(torch.tensor(error).double())

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None, extra: Tensor) -> Tensor:
        delta = 1 - extra
        there = delta * MEAN + z * ((delta * STD).square() + (1 - delta).square()).sqrt()
        return -(there - z) / delta + self.error * delta  # noise-ward


def of(net: nn.Module, **values: object) -> FreeFlow:
    student = Denoiser(net, shape=(2,), path=Flow(), prediction="velocity")
    return FreeFlow(student, exact(GaussianMixture(MEAN, STD)).double(), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("derivative", ["jvp", "fd"])
def test_the_exact_flow_map_of_a_gaussian_has_no_loss(derivative: Derivative) -> None:
    torch.manual_seed(0)
    z, y, delta = torch.randn(64, 2).double(), torch.full((64,), -1), (0.05 + 0.9 * torch.rand(64)).double()
    right = of(Map(), derivative=derivative, power=0.0).predict(z, y, delta)
    wrong = of(Map(0.3), derivative=derivative, power=0.0).predict(z, y, delta)
    assert right.item() < 1e-7 and wrong.item() > 1e-3


def test_the_corrector_leads_from_the_fake_to_the_teacher_and_rests_where_they_agree() -> None:
    torch.manual_seed(0)
    method = FreeFlow(mlp(16, 2), exact(GaussianMixture(torch.tensor([[2.0, 0.0]]), 0.5)))
    x, y = (0.5 * torch.randn(512, 2)).requires_grad_(), torch.full((512,), -1)
    method.fake = exact(GaussianMixture(torch.zeros(1, 2), 0.5))  # what x really is
    (slope,) = torch.autograd.grad(method.correct(x, y), x)
    assert float(slope[:, 0].mean()) < 0 and float(slope[:, 0].mean().abs()) > 5 * float(slope[:, 1].mean().abs())
    method.fake = method.teacher
    (slope,) = torch.autograd.grad(method.correct(x, y), x)
    assert float(slope.abs().max()) < 1e-7


def test_only_noise_is_looked_at_and_the_second_network_leads() -> None:
    batch = Samples(torch.full((8, 2), torch.nan), torch.full((8,), -1), torch.arange(8))
    method, told = FreeFlow(mlp(16, 2), mlp(16, 2), ratio=2, corrector=0.5), []
    for k in range(4):
        for update in method.updates(batch, Clock(k, 4)):
            assert all(torch.isfinite(term) for term in update.terms.values())
            told.append((update.player, *update.terms))
    first = [("student", "predict", "correct"), ("fake", "velocity")]
    assert told == [*first, ("fake", "velocity")] * 2
