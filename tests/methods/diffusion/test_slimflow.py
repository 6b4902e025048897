"""SlimFlow: forgotten pairs at b = 1, remembered at 0; two steps are two; the guide is the straightened student."""

import pytest
import torch

from limbeck.core.method import Setting
from limbeck.core.schedule import Clock
from limbeck.data.samples import SampleBatches, Samples
from limbeck.methods.diffusion._pairs import Reflow
from limbeck.methods.diffusion.slimflow import SlimFlow
from limbeck.models.denoiser import Denoiser
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world


def of(x: torch.Tensor, noise: torch.Tensor) -> Samples:
    return Samples(x, torch.full((len(x),), -1), torch.arange(len(x)), noise)


def loss(model: Denoiser, batch: Samples, beta: float) -> float:
    return Reflow(model, beta=beta).loss(batch, Clock(0, 1))["reflow"].item()


def test_annealing_forgets_the_pairs_at_one_and_remembers_them_at_zero() -> None:
    """Pairs x = noise / 2: along t = 1 - s all is known at b = 0 (v = x - noise: loss 0 for the map that says so)."""
    torch.manual_seed(0)
    noise = torch.randn(20_000, 2)
    batch = of(0.5 * noise, noise)
    straight = mlp(8, 2)
    straight.net.forward = lambda x, t, y, e: x / (1 - t + 2 * t)[:, None]  # x_t = noise (1 + t) / 2, v = noise / 2
    flow = exact(GaussianMixture(torch.zeros(1, 2), 0.5))  # knows no pairs: right at b = 1
    assert loss(straight, batch, 0.0) < 1e-10 < 1e-2 < loss(flow, batch, 0.0)
    assert loss(flow, batch, 1.0) < loss(straight, batch, 1.0) - 0.05


def test_two_steps_of_the_flow_are_eulers() -> None:
    torch.manual_seed(0)
    method = SlimFlow(mlp(16, 2), mlp(16, 2))
    n, t = torch.randn(16, 2), 0.2 + 0.6 * torch.rand(16)
    velocity = method.flow.net
    with torch.no_grad():
        x = n - (1 - t)[:, None] * velocity(n, torch.ones(16))
        x = x - t[:, None] * velocity(x, t)
    torch.testing.assert_close(method.two_steps(n, torch.full((16,), -1), t), x)


@pytest.mark.parametrize("anneal", [0.0, 0.5])
def test_the_guide_is_the_student_that_reflow_made(anneal: float) -> None:
    world, seen = diffusion_world(), []
    data = SampleBatches(world.train, 16, seed=0)

    def fit(method, *, name="fit", data=None, steps=0):  # type: ignore[no-untyped-def]
        if name == "reflow":
            beta = method.beta if callable(method.beta) else lambda clock: method.beta
            seen.append([beta(Clock(k, 4)) for k in range(4)])
            with torch.no_grad():
                method.student.net.leave.bias.fill_(3.0)
        else:
            seen.append(float(method.flow.net.leave.bias.mean()))
            seen.append(method.loss(next(iter(data)), Clock(0, steps)))

    SlimFlow.distil(Setting(world.student, world.teachers, data, 8, fit), {"steps": 4, "anneal": anneal})
    assert seen[0] == ([1.0, 0.5, 0.0, 0.0] if anneal else [0.0] * 4) and seen[1] == 3.0
    assert set(seen[2]) == {"distil", "guide"} and seen[2]["guide"].requires_grad
