"""Solvers against an exact teacher, and the few-step rule at its two ends."""

import pytest
import torch

from limbeck.models.denoiser import Denoiser
from limbeck.models.gaussian_mixture import GaussianMixture, exact, ring
from limbeck.models.path import EDM, VP, Flow, Trig
from limbeck.models.sampling import FewStep, Ode, grid, solve


def one_gaussian(path) -> Denoiser:
    """The ODE of a Gaussian has a closed form: x_t / sqrt(alpha^2 s^2 + sigma^2) stays, around the mean's path."""
    return exact(GaussianMixture(torch.tensor([[1.0, -0.5]]), 0.4, path=path))


def moved(model: Denoiser, x: torch.Tensor, t: float, s: float) -> torch.Tensor:
    """The ODE's exact state at s of what is x at t."""
    now, then = (
        (alpha * model.net.means, (alpha.square() * model.net.std**2 + sigma.square()).sqrt())
        for alpha, sigma in ((model.path.alpha(u), model.path.sigma(u)) for u in (torch.tensor([t]), torch.tensor([s])))
    )
    return then[0] + then[1] * (x - now[0]) / now[1]


@pytest.mark.parametrize("path", [Flow(), Trig(), VP(), EDM(sigma_max=20.0)], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("heun", 2), ("dpm2m", 2)])
@pytest.mark.parametrize(("start", "end"), [(0.95, 0.2), (0.2, 0.9)], ids=["down", "up"])
def test_solvers_reach_the_closed_form_at_their_order(path, solver: str, order: int, start: float, end: float) -> None:
    model = one_gaussian(path)
    x = model.path.noised(model.net.means, torch.randn(32, 2), torch.full((32,), start))

    def error(steps: int) -> float:
        with torch.no_grad():
            made = solve(model, x, grid(steps, start, end), solver=solver)[-1]
        return float((made - moved(model, x, start, end)).norm())

    coarse, fine = error(16), error(64)
    assert fine < coarse / (2.5 if order == 1 else 8), (coarse, fine)
    assert error(256) < 0.02 * float((x - moved(model, x, start, end)).norm())


def test_the_last_step_ends_at_x0() -> None:
    for path in (Flow(), EDM()):
        model, x = one_gaussian(path), torch.randn(4, 2)
        for solver in ("ddim", "heun", "dpm2m"):
            torch.testing.assert_close(solve(model, x, [0.3, 0.0], solver=solver)[-1], model(x, 0.3).x0)


def test_a_teacher_samples_its_own_distribution() -> None:
    world = ring(8, std=0.08)
    noise = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    made = exact(world).generate(noise, sampler=Ode(50))
    apart, nearest = torch.cdist(made, world.means).min(1)
    assert (apart < 0.4).all() and nearest.bincount(minlength=8).min() > 150
    within = (made - world.means[nearest]).std()
    assert 0.06 < float(within) < 0.09


def test_few_steps_without_fresh_noise_are_ddim_and_with_it_only_the_last_x0_counts() -> None:
    model, noise = exact(ring(8)), torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
    still = model.generate(noise, sampler=FewStep((1.0, 0.75, 0.5, 0.25), gamma=0.0))
    torch.testing.assert_close(still, model.generate(noise, sampler=Ode(4)), atol=1e-4, rtol=0)
    torch.testing.assert_close(model.generate(noise, sampler=FewStep((1.0,))), model(noise, 1.0).x0)
    made = model.generate(noise, sampler=FewStep((1.0, 0.5)), generator=torch.Generator().manual_seed(5))
    fresh = torch.randn(64, 2, generator=torch.Generator().manual_seed(5))
    first = model(noise, 1.0).x0
    torch.testing.assert_close(made, model(0.5 * first + 0.5 * fresh, 0.5).x0)


class Watch(torch.nn.Module):
    """Sees no data at all, so that its states are noise alone; keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x, t, y, extra):
        self.seen.append(x)
        return torch.zeros_like(x)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.7, 1.0])
def test_a_sampler_between_has_the_right_amount_of_noise(gamma: float) -> None:
    """TCD's rule ends every jump at the noise level that the network expects."""
    watch = Watch()
    model = Denoiser(watch, shape=(1,), path=Trig(), prediction="x0")
    model.generate(torch.randn(20_000, 1), sampler=FewStep((1.0, 0.4), gamma))
    assert float(watch.seen[1].std()) == pytest.approx(float(Trig().sigma(torch.tensor(0.4))), rel=0.03)


def test_the_mixtures_score_is_the_gradient_of_its_log_density() -> None:
    world = ring(8, classes=4)
    model, t = exact(world), torch.full((16,), 0.4)
    x = torch.randn(16, 2, requires_grad=True)
    y = torch.arange(16) % 5 - 1  # with and without a label
    (slope,) = torch.autograd.grad(world.log_density(x, t, torch.where(y < 0, 4, y)).sum(), x)
    torch.testing.assert_close(model(x, t, y).score, slope, atol=1e-4, rtol=1e-4)
