"""D-ODE solvers: the fit is least squares, one step is untouched, and held-out noise ends nearer to the ODE's end."""

import pytest
import torch

from limbeck.methods.diffusion.d_ode_solvers import DODESolvers
from limbeck.models.gaussian_mixture import exact, ring
from limbeck.models.path import VP, Path
from limbeck.models.sampling import Ode, grid, solve


def fitted(steps: int = 4, path: Path | None = None, **values: object) -> DODESolvers:
    torch.manual_seed(0)
    model = exact(ring(8, std=0.3, path=path))
    method = DODESolvers(model, model, steps=steps, **values)  # type: ignore[arg-type]
    method.solve(torch.randn(100, 2))
    return method


@pytest.mark.parametrize("values", [{}, {"of": "eps"}, {"solver": "dpm2m"}], ids=str)
def test_held_out_noise_ends_nearer_to_the_fine_runs_end(values: dict[str, str]) -> None:
    method = fitted(**values)
    noise = torch.randn(1000, 2, generator=torch.Generator().manual_seed(9))
    model, solver = method.student, method.solver
    end = model.generate(noise, sampler=Ode(200, solver))
    apart = [float((model.generate(noise, sampler=s) - end).norm()) for s in (Ode(4, solver), model.sampler)]
    assert apart[1] < 0.7 * apart[0], apart


def test_a_number_is_the_least_squares_solution_of_its_step() -> None:
    method, noise = fitted(steps=2), torch.randn(100, 2, generator=torch.Generator().manual_seed(3))
    method.solve(noise)
    model = method.teacher
    first = model(noise, 1.0)
    second = model(first.at(0.5), 0.5)
    wanted = solve(model, noise, grid(20))[-1]
    direction, missing = (second.x0 - first.x0).flatten(), (wanted - second.x0).flatten()
    expected = torch.linalg.lstsq(direction[:, None], missing[:, None]).solution.item()
    torch.testing.assert_close(method.student.sampler.lambdas, torch.tensor([0.0, expected]), rtol=1e-4, atol=1e-5)


def test_the_first_step_has_no_history_and_one_step_is_the_plain_solver() -> None:
    method = fitted(steps=1)
    noise = torch.randn(10, 2)
    torch.testing.assert_close(method.student.generate(noise), method.teacher.generate(noise, sampler=Ode(1)))
    first = [fitted(3, VP(), of=of).student.sampler.lambdas[0] for of in ("x0", "eps")]
    assert first[0] == 0 != first[1]
