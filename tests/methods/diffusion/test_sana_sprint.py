"""SANA-Sprint: the tangent of the exact consistency function, what is left of it at r = 0, its norm, who learns."""

import math

import pytest
import torch
from torch import Tensor, nn

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.methods.diffusion.sana_sprint import SanaSprint
from limbeck.models.denoiser import Denoiser
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.path import VP, Flow, Trig
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world

MEAN, STD = torch.tensor([[1.0, -0.5]]).double(), 0.5


class Consistent(nn.Module):
    """The exact consistency function of N(m, s^2) on the circle, as F: f = m + s (x - cos m) / sqrt(cos^2 s^2 +
    sin^2)."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.middle, self.error = "none", nn.Parameter(torch.tensor(error).double())

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None, extra: Tensor | None) -> Tensor:
        cos, sin = (t * math.pi / 2).cos()[:, None], (t * math.pi / 2).sin()[:, None]
        f = MEAN + STD * (x - cos * MEAN) / ((cos * STD).square() + sin.square()).sqrt()
        return (cos * x - f) / sin + self.error


def of(net: nn.Module, **values: object) -> SanaSprint:
    student = Denoiser(net, shape=(2,), path=Trig(), prediction="v")
    teacher = mlp(8, 2).double()
    method = SanaSprint(student, teacher, **values)  # type: ignore[arg-type]
    method.turned = exact(GaussianMixture(MEAN, STD, path=Trig())).double()
    return method


def states() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x, t = torch.randn(64, 2).double(), (0.1 + 0.8 * torch.rand(64)).double()
    return x, t, torch.full((64,), -1), torch.ones(64).double()


@pytest.mark.parametrize("how", ["jvp", "fd"])
def test_the_tangent_of_the_exact_consistency_function_is_zero(how: str) -> None:
    """df/dt = 0 along the teacher's way, and g is -cos t times it: with r = 1 nothing is left, with r = 0.5 much is."""
    x, t, y, scale = states()
    assert float(of(Consistent(), derivative=how).rotated(x, t, y, scale, 1.0).abs().max()) < 1e-4
    assert float(of(Consistent(), derivative=how).rotated(x, t, y, scale, 0.5).abs().max()) > 1e-2
    assert float(of(Consistent(0.2), derivative=how).rotated(x, t, y, scale, 1.0).abs().max()) > 1e-2


def test_g_is_minus_cos_times_the_derivative_of_the_consistency_function() -> None:
    """f = cos x - sin F: df/dt = -cos (F - dx/dt) - sin (x + dF/dt), here by finite differences of f itself."""
    x, t, y, scale = states()
    method, h = of(mlp(16, 2, path=Trig(), prediction="v").double().net), 1e-5
    velocity = method.turned(x, t).v

    def f(step: float) -> Tensor:
        return method.student(x + step * velocity, t + step * 2 / math.pi).x0

    with torch.no_grad():
        slope = (f(h) - f(-h)) / (2 * h)
    expected = 0.5 * (t * math.pi / 2).cos()[:, None] * slope
    torch.testing.assert_close(method.rotated(x, t, y, scale, 1.0), expected, rtol=1e-4, atol=1e-6)


def test_without_tangent_the_step_leads_to_the_teachers_velocity_and_its_size_is_bounded() -> None:
    x, t, y, scale = states()
    method = of(mlp(16, 2, path=Trig(), prediction="v").double().net)
    with torch.no_grad():
        g, F = method.rotated(x, t, y, scale, 0.0), method.student(x, t).v
    apart = method.turned(x, t).v - F
    torch.testing.assert_close(g, 0.5 * (t * math.pi / 2).cos().square()[:, None] * apart)
    off = method.scm(x, t, y, scale, 0.0)
    w = 1 / (0.5 * (t * math.pi / 2).tan())
    size = (g.norm(dim=1) / (g.norm(dim=1) + 0.1)).square() / 2
    torch.testing.assert_close(off, (w * size).mean())  # u begins at zero


def test_players_and_the_told_scale() -> None:
    world = diffusion_world()
    method = SanaSprint(world.student(), world.teachers[0], guidance=(2.0, 3.0))
    b = world.batch(8)
    batch = Samples(b.x, b.y, b.index)
    told = [(u.player, *u.terms) for u in method.updates(batch, Clock(0, 5))]
    assert told == [("student", "scm", "gan"), ("discriminator", "hinge")]
    assert method.student.extras == 1 and method.student.sampler.extra == (2.5,)
    weak, strong = (method.rotated(b.x, torch.full((8,), 0.5), b.y, torch.full((8,), w), 0.0) for w in (1.0, 4.0))
    assert not torch.allclose(weak, strong, atol=1e-3)


def test_f_is_the_networks_own_answer_which_is_v_on_the_circle() -> None:
    """What L_sCM asks for without the detour by x0 and eps, for a teacher of another path and prediction too."""
    for kind, path in (("velocity", Flow()), ("v", VP())):
        net, (x, t, y, _) = mlp(16, 2, path=path, prediction=kind).double(), states()
        student = SanaSprint(net, net).student
        torch.testing.assert_close(student.predicted(x, t, y), student(x, t, y).v)
