"""Phased DMD: the subinterval target is unbiased by quadrature, the naive one is not; experts take over in turn."""

import torch
from torch import nn

from limbeck.methods.diffusion.phased_dmd import PhasedDMD, target
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.path import Flow
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world


def test_the_posterior_mean_of_the_target_is_the_marginal_velocity() -> None:
    """Data {-1, 0, 1, 2}: ``E[v* | x_t]`` over a fine grid of x_s against the closed form; ``eps - x_s`` is off."""
    flow, data = Flow(), torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    grid = torch.linspace(-6, 6, 6001, dtype=torch.float64)
    for s, t in ((0.5, 0.6), (0.5, 0.8), (0.3, 0.9)):
        s_, t_ = torch.tensor([s], dtype=torch.float64), torch.tensor([t], dtype=torch.float64)
        a, b = flow.kernel(s_, t_)
        marginal = torch.exp(-((grid[:, None] - (1 - s) * data) ** 2) / (2 * s**2)).sum(1)  # p(x_s)
        for x in (-1.5, 0.2, 1.0):
            eps = (x - a * grid) / b
            weight = marginal * torch.exp(-(eps**2) / 2)
            weight = weight / weight.sum()
            v = target(flow, grid[:, None], eps[:, None], s_.expand(6001), t_.expand(6001))[:, 0]
            posterior = torch.softmax(-((x - (1 - t) * data) ** 2) / (2 * t**2), 0)
            true = float((posterior * ((x - (1 - t) * data) / t - data)).sum())  # E[eps - x0 | x_t]
            assert abs(float((weight * v).sum()) - true) < 1e-6
            assert abs(float((weight * (eps - grid)).sum()) - true) > 0.05, "the naive target is biased"


def test_from_clean_samples_the_target_is_the_plain_one() -> None:
    x, eps = torch.randn(8, 2), torch.randn(8, 2)
    assert torch.allclose(target(Flow(), x, eps, torch.zeros(8), torch.rand(8) * 0.9 + 0.05), eps - x, atol=1e-5)


def test_the_step_leads_to_the_teacher_at_the_phases_end_and_rests_there() -> None:
    torch.manual_seed(0)
    teacher = exact(GaussianMixture(torch.tensor([[2.0, 0.0]]), 0.5))
    method, y = PhasedDMD(mlp(16, 2), teacher), torch.full((512,), -1)
    x = torch.randn(512, 2).requires_grad_()
    method.critic = exact(GaussianMixture(torch.zeros(1, 2), 0.5))
    (slope,) = torch.autograd.grad(method.matching(x, y), x)
    assert float(slope[:, 0].mean()) < 0 and float(slope[:, 0].mean().abs()) > 5 * float(slope[:, 1].mean().abs())
    method.critic = teacher
    (slope,) = torch.autograd.grad(method.matching(x, y), x)
    assert float(slope.abs().max()) == 0


def test_a_phase_runs_the_earlier_experts_and_stops_where_it_ends() -> None:
    """Velocities 1, then 2: x falls by 0.5 in the first phase, by 1 in the second; gradient in the last step."""

    def constant(v: float) -> nn.Module:
        model = mlp(8, 1)
        nn.init.zeros_(model.net.leave.weight)
        nn.init.constant_(model.net.leave.bias, v)
        return model

    world = diffusion_world()
    batch = world.batch(4)._replace(x=torch.zeros(4, 2))
    first = PhasedDMD(constant(1.0), mlp(8, 1), steps=2)
    second = PhasedDMD(constant(2.0), mlp(8, 1), nn.ModuleList([constant(1.0)]), steps=2)
    assert first.phase == (1.0, 0.5) and second.phase == (0.5, 0.0)
    noise = []
    for method in (first, second):
        torch.manual_seed(0)
        noise.append(method.generate(batch))
    torch.manual_seed(0)
    z = torch.randn(4, 2)
    assert torch.allclose(noise[0], z - 0.5, atol=1e-5) and torch.allclose(noise[1], z - 1.5, atol=1e-5)
    (slope,) = torch.autograd.grad(noise[1].sum(), second.student.net.leave.bias)
    assert torch.allclose(slope, torch.full((2,), -4 * 0.25)), "one step of a quarter"


def test_the_experts_are_one_model_and_the_critic_is_anew() -> None:
    world = diffusion_world()
    student = PhasedDMD.distil(world.setting(), {"steps": 1})
    assert len(student.net.nets) == 2 and student.sampler.times == (1.0, 0.5)
    x, y = torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    own = [net(x, torch.full((4,), t), y) for net, t in zip(student.net.nets, (0.7, 0.5), strict=True)]
    assert torch.equal(student.net(x, torch.full((4,), 0.7), y), own[0])
    assert torch.equal(student.net(x, torch.full((4,), 0.5), y), own[1]), (
        "the next expert is called where it takes over"
    )
