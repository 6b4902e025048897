"""EM distillation: the chain's law in closed form, K = 1 is Diff-Instruct, the noise is cancelled by its own decay."""

import math

import pytest
import torch
from torch import Tensor

from limbeck.losses.score import follow
from limbeck.methods.diffusion._shared import produce
from limbeck.methods.diffusion.em_distillation import EMDistillation
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.tiny_denoiser import mlp


def gaussians(**values: float) -> tuple[EMDistillation, float, float]:
    """A generator that is linear in z, its exact critic, and the teacher N((1, -1), 0.25): with the generator's own
    mean and deviation."""
    method = EMDistillation(mlp(8, 1), exact(GaussianMixture(torch.tensor([[1.0, -1.0]]), 0.5)), **values)
    method.student = exact(GaussianMixture(torch.zeros(1, 2), 0.8))
    z = torch.zeros(1, 2)
    shift, scale = (float(produce(method.student, z + k, None, method.begins)[0, 0]) for k in (0.0, 1.0))
    method.critic = exact(GaussianMixture(torch.full((1, 2), shift), scale - shift))
    return method, shift, scale - shift


def test_the_chain_ends_at_the_teachers_marginal() -> None:
    """x = alpha g(z) + sigma eps is distributed as q_t under rho, whatever the generator; both step sizes are the
    same dynamics."""
    torch.manual_seed(0)
    method, _, _ = gaussians(steps=400, eps_step=0.02, z_step=0.02, start=1.0)
    n, time = 4000, 0.4
    z, eps, t, y = torch.randn(n, 2), torch.randn(n, 2), torch.full((n,), time), torch.full((n,), -1)
    alpha, sigma = 1 - time, time
    noise: list[Tensor] = []
    draw = torch.randn_like

    def recorded(x: Tensor) -> Tensor:
        noise.append(draw(x))
        return noise[-1]

    torch.randn_like = recorded  # type: ignore[assignment]
    try:
        z, moved = method.corrected(z, eps, t, y)
    finally:
        torch.randn_like = draw
    for n_eps in noise[1::2]:  # z draws first
        eps = 0.98 * eps + math.sqrt(0.04) * n_eps
    x = alpha * produce(method.student, z, None, method.begins) + sigma * (eps + moved)
    assert torch.allclose(x.mean(0), alpha * torch.tensor([1.0, -1.0]), atol=0.05)
    assert torch.allclose(x.var(0), torch.tensor((alpha * 0.5) ** 2 + sigma**2), rtol=0.1)


def test_one_step_without_z_is_diff_instruct() -> None:
    """The gradient is that of the score difference in x, weighed by 2 alpha sigma^2 gamma: no noise is left in it."""
    torch.manual_seed(0)
    method = EMDistillation(mlp(16, 2), mlp(16, 2), steps=1, z_step=0.0, eps_step=0.1)
    for p in method.critic.parameters():
        p.data += 0.05 * torch.randn_like(p)
    z, eps, t, y = torch.randn(8, 2), torch.randn(8, 2), torch.rand(8) * 0.8 + 0.1, torch.full((8,), -1)
    at, moved = method.corrected(z, eps, t, y)
    assert torch.equal(at, z)
    weights = list(method.student.parameters())
    found = torch.autograd.grad(method.maximisation(at, moved, t, y).sum(), weights, allow_unused=True)
    x = produce(method.student, z, y, method.begins)
    with torch.no_grad():
        x_t = method.teacher.path.noised(x, eps, t)
        gap = method.critic(x_t, t).score - method.teacher(x_t, t).score
    gap = (2 * (1 - t) * t**2 * 0.1)[:, None] * gap
    wanted = torch.autograd.grad(follow(x, gap).sum(), weights, allow_unused=True)
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) is (b is None) and (a is None or torch.allclose(a, b, atol=1e-6))
    assert max(float(g.abs().max()) for g in found if g is not None) > 1e-5


def test_cancelling_the_noise_quietens_the_target() -> None:
    """Without it the target is alpha g + sigma eps: the same pull on average, with the noise on top."""
    torch.manual_seed(0)
    method, shift, _ = gaussians(steps=4, z_step=0.0)
    n = 4000
    z, eps, t, y = torch.randn(n, 2), torch.randn(n, 2), torch.full((n,), 0.5), torch.full((n,), -1)
    _, moved = method.corrected(z, eps, t, y)
    decayed = 0.84**4
    assert float(moved[:, 0].mean()) > 0.3 * (1 - decayed) and float(moved[:, 1].mean()) < 0  # to (1, -1), from about 0
    assert float(moved.std(0).max()) < 1 / 3  # the noise alone has 1
    assert abs(shift) < 0.5


def test_the_latent_is_led_by_the_derivative_of_the_generator() -> None:
    torch.manual_seed(0)
    method, _, _ = gaussians(steps=60, z_step=0.05, start=1.0)
    still, _, _ = gaussians(steps=60, z_step=0.0, start=1.0)
    n = 2000
    z, eps, t, y = torch.randn(n, 2), torch.randn(n, 2), torch.full((n,), 0.3), torch.full((n,), -1)
    led, _ = method.corrected(z, eps, t, y)
    assert float(led[:, 0].mean()) > 0.3 and float(led[:, 1].mean()) < -0.3
    assert torch.equal(still.corrected(z, eps, t, y)[0], z)
    assert float(led.mean(0).sum()) == pytest.approx(0.0, abs=0.15)
