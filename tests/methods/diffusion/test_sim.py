"""SIM: the gradient theorem by quadrature, the squared distance is SiD's, no sample pulls harder than another."""

import pytest
import torch
from torch import Tensor

from limbeck.methods.diffusion import sid, sim
from limbeck.methods.diffusion.sid import SiD
from limbeck.methods.diffusion.sim import SIM
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world


def batch(n: int, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return (shift + torch.randn(n, 2)).requires_grad_(), torch.full((n,), -1)


def test_squared_is_sid_at_alpha_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    teacher, student = mlp(16, 2), mlp(16, 2)
    one, other = SIM(student, teacher, distance="squared"), SiD(student, teacher, alpha=1.0)
    one.critic = other.critic = mlp(16, 2)
    monkeypatch.setattr(sid, "distance", lambda x, real, floor: torch.ones(len(x), 1))
    x, y = batch(32)
    slopes: list[Tensor] = []
    for loss in (lambda: one.matching(x, y).mean(), lambda: other.fisher(x, y)):
        torch.manual_seed(3)
        slopes.append(torch.autograd.grad(loss(), x)[0])
    assert torch.allclose(*slopes, atol=1e-7) and float(slopes[0].abs().max()) > 0


@pytest.mark.parametrize("distance", ["pseudo_huber", "squared"])
def test_its_gradient_is_the_distances_own(distance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the line: G(z) = m + s z, two teacher modes, and t fixed. The slope in m of E d(y_fake - y_real), where x_t is
    drawn from the held generator and y_fake moves with m (by sigma^2 / variance), by quadrature in float64."""
    nodes = torch.linspace(-6, 6, 161, dtype=torch.float64)
    z, eps = (n.reshape(-1, 1) for n in torch.meshgrid(nodes, nodes, indexing="ij"))
    weight = torch.exp(-(z.square() + eps.square()) / 2)[:, 0]
    weight = weight / weight.sum()
    time, m, s = 0.4, 0.3, 0.7
    made = GaussianMixture(torch.tensor([[-1.0], [1.2]], dtype=torch.float64), 0.4)
    made.weights = made.weights.double()
    method = SIM(mlp(8, 1, shape=(1,)), exact(made), distance=distance, c=0.3)  # type: ignore[arg-type]
    own = GaussianMixture(torch.tensor([[m]], dtype=torch.float64), s)
    own.weights = own.weights.double()
    method.critic = exact(own)
    monkeypatch.setattr(sim, "karras_times", lambda path, x, high: torch.full((len(x),), time, dtype=torch.float64))
    monkeypatch.setattr(torch, "randn_like", lambda x: eps)
    at = torch.tensor(m, dtype=torch.float64, requires_grad=True)
    y = torch.full((len(z),), -1)
    (slope,) = torch.autograd.grad((weight * method.matching(at + s * z, y)).sum(), at)
    x_t = ((1 - time) * (m + s * z) + time * eps).detach()
    moves = time**2 / ((1 - time) ** 2 * s**2 + time**2)
    with torch.no_grad():
        t = torch.full((len(z),), time, dtype=torch.float64)
        gap = (method.critic(x_t, t).x0 - method.teacher(x_t, t).x0)[:, 0]
    slope_of_d = gap / (gap.square() + 0.09).sqrt() if distance == "pseudo_huber" else gap
    assert float(slope) == pytest.approx(float((weight * slope_of_d * moves).sum()), abs=1e-5)
    assert abs(float(slope)) > 0.01


def test_a_generator_far_away_pulls_no_harder() -> None:
    """Between Gaussians of equal spread the whole slope is (1 - a k) u / ||u||: it does not grow with the distance."""
    largest: dict[tuple[str, float], float] = {}
    for kind in ("pseudo_huber", "squared"):
        for shift in (2.0, 20.0):
            method = SIM(mlp(16, 2), exact(GaussianMixture(torch.tensor([[shift, 0.0]]), 0.5)), distance=kind)
            method.critic = exact(GaussianMixture(torch.zeros(1, 2), 0.5))
            x, y = batch(256)
            torch.manual_seed(1)
            (slope,) = torch.autograd.grad(method.matching(x, y).sum(), x)
            assert float(slope[:, 0].max()) <= 1e-6 and float(slope[:, 0].mean()) < -0.05  # downhill is to the teacher
            largest[kind, shift] = float(slope.abs().max())
    assert largest["pseudo_huber", 20.0] <= 1.0 + 1e-3
    assert largest["squared", 20.0] == pytest.approx(10 * largest["squared", 2.0], rel=1e-2)


def test_guidance_is_the_teachers_alone() -> None:
    """With guidance, agreement of the unguided fake score with the unguided teacher is no rest."""
    world = diffusion_world()
    b = world.batch(16)
    for guidance, rests in ((1.0, True), (4.0, False)):
        method = SIM(world.student(), world.teachers[0], guidance=guidance)
        assert (float(method.matching(b.x, b.y).abs().max()) < 1e-4) is rests
