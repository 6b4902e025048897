"""Bespoke solvers: they begin as the plain ones, the bound bounds, and training makes held-out errors smaller."""

from functools import partial

import pytest
import torch

from limbeck import fit
from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.bespoke_solver import BespokeSolver
from limbeck.models.gaussian_mixture import exact, ring
from limbeck.models.path import VP, Flow, Trig
from limbeck.models.sampling import Ode, grid


def method(order: int = 2, steps: int = 3, path: object = None) -> BespokeSolver:
    model = exact(ring(8, std=0.3, path=path or Trig()))
    return BespokeSolver(trainable(model), model, steps=steps, order=order)  # type: ignore[arg-type]


def batch(n: int = 64) -> Samples:
    return Samples(torch.zeros(n, 2), torch.full((n,), -1), torch.arange(n))


@pytest.mark.parametrize("order", [1, 2])
def test_it_begins_as_eulers_and_the_midpoint_rule(order: int) -> None:
    made, x = method(order, 4), torch.randn(16, 2)
    model, expected = made.student, x
    for t, s in zip(grid(4), grid(4)[1:], strict=False):
        h = s - t
        half = expected + (h / 2 * model(expected, t).velocity if order == 2 else 0)
        expected = expected + h * model(half, t + (h / 2 if order == 2 else 0)).velocity
    torch.testing.assert_close(model.generate(x), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.sampler.lipschitz(1.0), torch.full((4,), 1.25 if order == 1 else 1 + 0.25 * 1.125))
    assert sum(p.numel() for p in model.sampler.parameters()) == (16 if order == 1 else 32)  # one of them is redundant


def test_any_scale_and_time_is_still_a_solver_of_the_same_order() -> None:
    """With s(r) = 1 + r and t(r) = 1 - r^2 (1 + r) / 2 the error still falls as n^-2."""

    def error(n: int) -> float:
        made = method(2, n, Flow())
        r = torch.arange(2 * n + 1, dtype=torch.float64) / (2 * n)
        t, dt = 1 - r - 0.3 * r * (1 - r), -1 - 0.3 * (1 - 2 * r)
        made.student.sampler.numbers = (
            lambda: tuple(  # type: ignore[method-assign]
                part.float() for part in (t, 1 + r, dt[:-1], torch.ones(2 * n))
            )
        )
        noise = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
        return float((made.student.generate(noise) - made.teacher.generate(noise, sampler=Ode(400, "heun"))).norm())

    assert error(32) < error(8) / 8


def test_training_makes_held_out_errors_smaller() -> None:
    torch.manual_seed(0)
    made = method(2, 3, VP())
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    end = made.teacher.generate(noise, sampler=Ode(200, "heun"))
    before = float((made.student.generate(noise) - end).norm())
    fit(made, [batch()], partial(torch.optim.Adam, lr=1e-2), steps=60)
    assert float((made.student.generate(noise) - end).norm()) < 0.7 * before


def test_the_loss_bounds_the_global_error_where_the_velocity_is_as_smooth_as_it_says() -> None:
    """One wide Gaussian on the flow path: the velocity's Lipschitz constant is at most 1 / std = 1."""
    torch.manual_seed(0)
    made = method(2, 3, Flow())
    model = exact(ring(1, radius=0.0, std=1.0))
    made.student.net, made.teacher.net = model.net, model.net
    noise = torch.randn(256, 2)
    torch.manual_seed(5)
    bound = float(made.loss(batch(256), Clock(0, 1))["local_errors"])
    torch.manual_seed(5)
    noise = torch.randn(256, 2)
    end = made.teacher.generate(noise, sampler=Ode(400, "heun"))
    error = (made.student.generate(noise) - end).square().mean(1).sqrt().mean()
    assert 0 < float(error) <= bound
