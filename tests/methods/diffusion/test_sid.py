"""SiD: the step of the divergence in closed form, what alpha does, where the generator begins, no data."""

import pytest
import torch
from torch import Tensor

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.losses.score import distance
from limbeck.methods.diffusion import sid
from limbeck.methods.diffusion._shared import karras_times
from limbeck.methods.diffusion.sid import SiD
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.path import EDM
from limbeck.models.tiny_denoiser import mlp


def gaussians(alpha: float, std: float, fitted: float) -> SiD:
    """The teacher is N((2, 0), std^2), the fake score that of N(0, fitted^2)."""
    method = SiD(mlp(16, 2), exact(GaussianMixture(torch.tensor([[2.0, 0.0]]), std)), alpha=alpha)
    method.critic = exact(GaussianMixture(torch.zeros(1, 2), fitted))
    return method


def test_the_gradient_goes_through_both_score_networks() -> None:
    """Of equal spread: the gap is (1 - a k)(mu - m) everywhere, and the slope -(1 - a k)^2 (mu - m): half that of the
    Fisher divergence. With the score networks' outputs detached it would be the gap's first power."""
    torch.manual_seed(0)
    method = gaussians(1.2, 0.5, 0.5)
    x, y = (0.5 * torch.randn(256, 2)).requires_grad_(), torch.full((256,), -1)
    torch.manual_seed(1)
    (slope,) = torch.autograd.grad(method.fisher(x, y) * len(x), x)
    torch.manual_seed(1)
    path = method.teacher.path
    t = karras_times(path, x)
    with torch.no_grad():
        real = method.teacher(path.noised(x, torch.randn_like(x), t), t).x0
    left = path.sigma(t).square() / (path.alpha(t).square() * 0.25 + path.sigma(t).square())
    wanted = -left.square()[:, None] * torch.tensor([2.0, 0.0]) / distance(x, real, 1e-5)
    assert torch.allclose(slope, wanted, atol=1e-4)


def test_its_mean_is_one_minus_alpha_times_the_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    """E[x | x_t] is what the exact fake score says, so the projected part has mean zero: at alpha 1 the loss says
    nothing, and its gradient everything; past 1 it is negative. Without the normaliser, which depends on x."""
    monkeypatch.setattr(sid, "distance", lambda x, real, floor: torch.ones(len(x), 1))
    found: dict[float, Tensor] = {}
    for alpha in (0.0, 1.0, 1.2):
        method = gaussians(alpha, 0.5, 1.0)
        torch.manual_seed(0)
        x, y = torch.randn(40_000, 2), torch.full((40_000,), -1)
        found[alpha] = method.fisher(x, y)
    assert float(found[0.0]) > 0.3
    assert abs(float(found[1.0])) < 0.03 * float(found[0.0])
    assert float(found[1.2]) == pytest.approx(-0.2 * float(found[0.0]), rel=0.15)


def test_the_generator_is_asked_at_its_noise_level_on_any_path() -> None:
    for path, begins in ((None, 5 / 7), (EDM(), float(EDM().time(torch.tensor(2.5))))):
        method = SiD(mlp(16, 2, path=path), mlp(16, 2, path=path))
        assert method.student.sampler.times == pytest.approx((begins,))
        noise = torch.randn(4, 2)
        said = method.student(noise * (2.5 if path else 5 / 7), begins).x0
        assert torch.allclose(method.student.generate(noise), said, atol=1e-5)


def test_no_data_are_used_and_the_players_keep_apart() -> None:
    torch.manual_seed(0)
    method = SiD(mlp(16, 2), mlp(16, 2))
    losses: list[list[Tensor]] = []
    for x in (torch.zeros(8, 2), torch.ones(8, 2)):
        torch.manual_seed(1)
        batch = Samples(x, torch.full((8,), -1), torch.arange(8))
        updates = list(method.updates(batch, Clock(0, 2)))
        assert [u.player for u in updates] == ["critic", "student"]
        losses.append([u.loss for u in updates])
    assert torch.equal(torch.stack(losses[0]), torch.stack(losses[1]))
    losses[0][1].backward()
    assert all(p.grad is None and p.requires_grad for p in method.critic.parameters())
