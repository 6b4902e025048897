"""MMD-DDM: the sum as written, zero on average for the same distribution, the gradient through every step."""

import pytest
import torch

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.methods.diffusion.mmd_ddm import MMDDDM
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world


def method(**values: object) -> MMDDDM:
    return MMDDDM(mlp(16, 2), mlp(16, 2), **values)  # type: ignore[arg-type]


def test_the_estimate_is_the_sum_over_pairs() -> None:
    torch.manual_seed(0)
    f, r, m = torch.randn(7, 3), torch.randn(7, 3) + 1, 7

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within = sum(k(f[i], f[j]) + k(r[i], r[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    between = sum(k(a, b) for a in f for b in r) / m**2
    torch.testing.assert_close(float(method().mmd(f, r)), within - 2 * between, rtol=1e-4, atol=1e-5)


def test_it_is_zero_on_average_for_one_distribution_and_not_for_two() -> None:
    torch.manual_seed(0)
    own = method(features="pixels", kernel="gaussian")
    same = [float(own.mmd(torch.randn(32, 2), torch.randn(32, 2))) for _ in range(300)]
    mean, error = torch.tensor(same).mean(), torch.tensor(same).std() / 300**0.5
    assert abs(mean) < 4 * error and min(same) < 0
    assert float(own.mmd(torch.randn(64, 2), torch.randn(64, 2) + 2)) > 0.2


@pytest.mark.parametrize("recompute", [False, True])
def test_descent_moves_the_samples_to_the_data_through_every_step(recompute: bool) -> None:
    """The chain of an exact Gaussian's sampler: shifting its mean moves what comes out of all steps."""
    torch.manual_seed(0)
    model = exact(GaussianMixture(torch.zeros(1, 2), 0.5))
    model.net.means = torch.nn.Parameter(model.net.means)
    own = MMDDDM(model, mlp(8, 2), features="pixels", kernel="gaussian", steps=4, recompute=recompute)
    real = torch.tensor([1.0, 0.0]) + 0.5 * torch.randn(512, 2)
    (update,) = own.updates(Samples(real, torch.full((512,), -1), torch.arange(512)), Clock(0, 1))
    (slope,) = torch.autograd.grad(update.loss, model.net.means)
    assert float(slope[0, 0]) < 0 and abs(float(slope[0, 0])) > 5 * abs(float(slope[0, 1]))
    calls, forward = [], own.student.net.forward
    own.student.net.forward = lambda x, t, y, e: (calls.append((float(t[0]), x.requires_grad)), forward(x, t, y, e))[1]
    own.chain(torch.randn(8, 2), torch.full((8,), -1))
    assert calls == [(1.0, False), (0.75, True), (0.5, True), (0.25, True)]


def test_inner_features_are_the_frozen_teachers() -> None:
    world = diffusion_world()
    b, own = world.batch(8), MMDDDM(world.student(), world.teachers[0])
    assert own.phi(b.x, b.y).shape == (8, 32) and own.student.sampler.nfe == 5
    x = b.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(own.mmd(own.phi(x, b.y), own.phi(-b.x, b.y)), x)
    assert float(slope.abs().max()) > 0 and not any(p.requires_grad for p in own.teacher.parameters())
