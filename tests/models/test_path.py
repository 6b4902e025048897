"""Noise paths: every prediction says the same, the end points are right, and signs are what the face promises."""

import math

import pytest
import torch

from limbeck.errors import InputError
from limbeck.models.denoiser import Denoiser, Guided, Told
from limbeck.models.gaussian_mixture import exact, ring
from limbeck.models.path import EDM, VP, Discrete, Flow, Path, Trig, mixture, wide
from limbeck.models.sampling import Ode
from limbeck.models.tiny_denoiser import mlp

DDPM = Discrete(tuple(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).tolist()))
PATHS: list[Path] = [Flow(), Trig(), VP(), EDM(), DDPM]
NAMED = [type(p).__name__ for p in PATHS]
each = pytest.mark.parametrize("path", PATHS, ids=NAMED)


@each
@pytest.mark.parametrize("kind", ["x0", "eps", "v", "velocity", "edm"])
def test_a_perfect_prediction_of_any_kind_gives_back_data_and_noise(path: Path, kind: str) -> None:
    torch.manual_seed(0)
    x0, eps, t = torch.randn(64, 3), torch.randn(64, 3), torch.rand(64) * 0.9 + 0.05
    a, b = mixture(path, t, kind)
    x = path.noised(x0, eps, t)
    found = path.solve(x, wide(a, x) * x0 + wide(b, x) * eps, t, kind)
    scale = path.ratio(t)[:, None].clamp(min=1)  # x0 is lost in single precision where the noise is 80 times as large
    torch.testing.assert_close(found[0] / scale, x0 / scale, atol=2e-4, rtol=2e-3)
    small = path.sigma(t) > 0.05  # and the noise where there is little of it
    torch.testing.assert_close(found[1][small], eps[small], atol=2e-3, rtol=2e-3)


@each
def test_rates_are_derivatives_and_time_is_the_inverse_of_the_ratio(path: Path) -> None:
    t = torch.linspace(0.1503, 0.8497, 12)  # between the entries of a table
    for value, rate in zip((path.alpha, path.sigma), path.rates(t), strict=True):
        _, exact = torch.func.jvp(value, (t,), (torch.ones_like(t),))
        torch.testing.assert_close(rate, exact, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(path.time(path.ratio(t)), t, rtol=1e-3, atol=1e-3)


@each
def test_noise_grows_and_the_clean_end_is_clean(path: Path) -> None:
    t = torch.linspace(0, 1, 101)
    assert (path.ratio(t).diff() > 0).all()
    assert float(path.alpha(t[:1])) == pytest.approx(1) and float(path.sigma(t[:1])) < 0.01


@each
def test_two_steps_of_the_conditional_kernel_are_one_marginal(path: Path) -> None:
    s, t = torch.tensor([0.2, 0.5]), torch.tensor([0.6, 0.7])
    a, b = path.kernel(s, t)
    torch.testing.assert_close(a * path.alpha(s), path.alpha(t))
    torch.testing.assert_close((a * path.sigma(s)).square() + b.square(), path.sigma(t).square(), rtol=1e-4, atol=1e-6)


def test_a_discrete_path_meets_the_table_it_was_made_from() -> None:
    at = torch.tensor([0, 499, 999])
    table = torch.tensor(DDPM.alphas_cumprod)[at]
    torch.testing.assert_close(DDPM.alpha((at + 1) / 1000).square(), table, rtol=1e-3, atol=1e-5)


def test_velocity_points_from_data_to_noise_and_the_score_back() -> None:
    x0, eps = torch.zeros(1, 2), torch.ones(1, 2)

    class Knows(torch.nn.Module):
        def forward(self, x, t, y, extra):
            return eps

    said = Denoiser(Knows(), shape=(2,), path=VP(), prediction="eps")(VP().noised(x0, eps, torch.tensor([0.5])), 0.5)
    assert (said.velocity > 0).all() and (said.score < 0).all()
    torch.testing.assert_close(said.at(0.0), x0, atol=1e-5, rtol=0)
    torch.testing.assert_close(said.v, VP().alpha(torch.tensor([0.5]))[:, None] * eps, atol=1e-5, rtol=0)


class Labels(torch.nn.Module):
    """Answers 1 with a label and 0 without."""

    def forward(self, x, t, y, extra):
        return (y < 2).float()[:, None].expand_as(x)


def test_the_two_rules_of_guidance_differ_by_one_and_are_off_where_they_say() -> None:
    model = Denoiser(Labels(), shape=(2,), path=Flow(), prediction="x0", classes=2)
    x, y = torch.randn(3, 2), torch.tensor([0, 1, 0])

    def x0(scale, rule):
        return Guided(model, scale, rule)(x, 0.5, y).x0

    torch.testing.assert_close(x0(3.0, "from_unconditional"), torch.full((3, 2), 3.0))
    torch.testing.assert_close(x0(2.0, "from_conditional"), torch.full((3, 2), 3.0))
    torch.testing.assert_close(x0(1.0, "from_unconditional"), x0(0.0, "from_conditional"))
    each = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(x0(each, "from_unconditional")[:, 0], each)
    said = Guided(model, 3.0)(x, 0.5, y)
    again = Flow().noised(said.x0, said.eps, said.t)
    torch.testing.assert_close(again, x)  # guided data and noise still make the state
    torch.testing.assert_close(Guided(model, 3.0)(x, 0.5, None).x0, torch.zeros(3, 2))


def test_guiding_a_model_without_classes_and_an_unknown_prediction_are_one_line() -> None:
    model = Denoiser(Labels(), shape=(2,), path=Flow(), prediction="x0")
    with pytest.raises(InputError, match=r"guidance: .3.0. needs a conditional model"):
        Guided(model, 3.0)
    with pytest.raises(InputError, match="did you mean 'velocity'"):
        Denoiser(Labels(), shape=(2,), path=Flow(), prediction="velocty")  # type: ignore[arg-type]


def test_the_angle_of_trig_is_trigflows_time() -> None:
    assert float(Trig().alpha(torch.tensor(2 / math.pi * 0.3))) == pytest.approx(math.cos(0.3))


def test_a_network_that_is_told_more_begins_as_it_was_and_can_listen() -> None:
    model = mlp(16, 2, classes=2)
    told, x, y = model.told(2), torch.randn(4, 2), torch.tensor([0, 1, -1, 0])
    extra = torch.randn(4, 2)
    torch.testing.assert_close(told(x, 0.5, y, extra).x0, model(x, 0.5, y).x0)
    (slope,) = torch.autograd.grad(told(x, 0.5, y, extra).x0.sum(), [told.net.more[2].weight])
    assert float(slope.abs().max()) > 0
    with pytest.raises(InputError, match="cannot be told further numbers"):
        Denoiser(Labels(), shape=(2,), path=Flow(), prediction="x0").told(1)


def test_what_guides_samples_guided_and_what_is_told_samples_as_it_is_told() -> None:
    torch.manual_seed(0)
    model, noise, y = mlp(16, 2, classes=2), torch.randn(8, 2), torch.arange(8) % 2
    guided = Guided(model, 3.0)
    with torch.no_grad():
        torch.testing.assert_close(guided.generate(noise, y, sampler=Ode(4)), Ode(4)(guided, noise, y))
    assert not torch.allclose(guided.generate(noise, y, sampler=Ode(4)), model.generate(noise, y, sampler=Ode(4)))
    told = model.told(1)
    torch.nn.init.normal_(told.net.more[2].weight)
    one, two = (Told(told, k).generate(noise, y, sampler=Ode(4)) for k in (0.1, 0.7))
    torch.testing.assert_close(one, told.generate(noise, y, sampler=Ode(4, extra=(0.1,))))
    assert not torch.allclose(one, two)


def test_clean_data_are_seen_as_they_are() -> None:
    model, x = exact(ring(8)), torch.randn(4, 2)
    assert float((model(x, 0.0).x0 - x).abs().max()) < 1e-5
    said = Denoiser(Labels(), shape=(2,), path=Flow(), prediction="x0", classes=2)(x, 0.0, torch.tensor([0, 1, 0, 1]))
    torch.testing.assert_close(said.x0, torch.ones(4, 2))
