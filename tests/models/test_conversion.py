"""A model on another path is the same model: in what it sees, in its samples, and it can learn there."""

import pytest
import torch

from limbeck.models.conversion import on_path
from limbeck.models.gaussian_mixture import exact, ring
from limbeck.models.path import EDM, VP, Flow, Path, Trig
from limbeck.models.sampling import solve
from limbeck.models.tiny_denoiser import mlp


@pytest.mark.parametrize("there", [Trig(), VP(), EDM()])
@pytest.mark.parametrize("prediction", ["velocity", "v", "eps"])
def test_the_exact_teacher_of_one_path_is_the_exact_teacher_of_the_other(there: Path, prediction: str) -> None:
    torch.manual_seed(0)
    x0, eps, t = torch.randn(64, 2), torch.randn(64, 2), 0.05 + 0.9 * torch.rand(64)
    x = there.noised(x0, eps, t)
    found = on_path(exact(ring(path=Flow())), there, prediction)(x, t)
    true = exact(ring(path=there))(x, t)
    torch.testing.assert_close(found.x0, true.x0, rtol=1e-3, atol=1e-3)
    back = on_path(exact(ring(path=there)), Flow(), "velocity")
    state = Flow().noised(x0, eps, t)
    torch.testing.assert_close(back(state, t).x0, exact(ring())(state, t).x0, rtol=1e-3, atol=1e-3)


def test_sana_sprints_closed_form_of_the_conversion() -> None:
    """F = ((1 - 2 s) x_s + (1 - 2 s + 2 s^2) v(x_s, s)) / sqrt(s^2 + (1 - s)^2) with s = sin / (sin + cos)."""
    torch.manual_seed(0)
    model = mlp(16, 2).double()
    x, t = torch.randn(32, 2).double(), torch.rand(32).double()
    angle = t * torch.pi / 2
    s = angle.sin() / (angle.sin() + angle.cos())
    size = (s.square() + (1 - s).square()).sqrt()[:, None]
    velocity = model.net(x * size, s)
    F = ((1 - 2 * s)[:, None] * x * size + (1 - 2 * s + 2 * s.square())[:, None] * velocity) / size
    torch.testing.assert_close(on_path(model, Trig(), "v").net(x, t), F, rtol=1e-6, atol=1e-6)


def test_samples_are_the_same_at_matched_times() -> None:
    torch.manual_seed(0)
    model, noise = mlp(16, 2).double(), torch.randn(32, 2).double()
    turned = on_path(model, Trig(), "v")
    times = [1.0, 0.7, 0.4, 0.2, 0.0]
    matched = [float(Flow().time(Trig().ratio(torch.tensor(t, dtype=torch.float64)))) for t in times]
    with torch.no_grad():
        found, true = solve(turned, noise, times)[-1], solve(model, noise, matched)[-1]
    torch.testing.assert_close(found, true, rtol=1e-6, atol=1e-6)
    assert turned(noise, 0.3).x0.requires_grad
