"""The control: its loss is the noise's or the velocity's mean square, and nothing of a label left out remains."""

import torch

from limbeck.core.schedule import Clock
from limbeck.methods.diffusion._shared import denoising
from limbeck.methods.diffusion.denoising import Denoising
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from tests.worlds import diffusion_world


def test_targets_weigh_the_same_error_as_they_say() -> None:
    """On the flow path an error d in x0 is d (1 - t) / t in eps and d / t in velocity."""
    model = exact(GaussianMixture(torch.zeros(1, 2), 1.0))
    x0, t = torch.randn(64, 2), 0.2 + 0.6 * torch.rand(64)
    noise = torch.randn(64, 2)
    apart = {k: denoising(model, x0, t, target=k, noise=noise) for k in ("x0", "eps", "velocity", "v")}
    torch.testing.assert_close(apart["eps"], apart["x0"] * ((1 - t) / t).square(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(apart["velocity"], apart["x0"] / t.square(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(apart["v"], apart["x0"] * (t + (1 - t).square() / t).square(), rtol=1e-3, atol=1e-5)


def test_the_exact_denoiser_has_a_smaller_loss_than_its_neighbours() -> None:
    torch.manual_seed(0)
    world = GaussianMixture(torch.tensor([[0.5, 0.0]]), 0.7)
    x0, _ = world.sample(20_000)
    t, noise = 0.5 * torch.ones(20_000), torch.randn(20_000, 2)
    best = float(denoising(exact(world), x0, t, noise=noise).mean())
    for other in (GaussianMixture(torch.tensor([[0.6, 0.0]]), 0.7), GaussianMixture(torch.tensor([[0.5, 0.0]]), 0.9)):
        assert float(denoising(exact(other), x0, t, noise=noise).mean()) > best


def test_all_labels_left_out_are_no_labels() -> None:
    world = diffusion_world()
    batch, method = world.batch(16), Denoising(world.student(), unlabelled=1.0)
    found = []
    for y in (batch.y, torch.full_like(batch.y, -1)):
        torch.manual_seed(3)
        found.append(method.loss(batch._replace(y=y), Clock(0, 1))["denoising"])
    torch.testing.assert_close(*found, rtol=0, atol=0)
