"""TwinFlow: the any-step target of the exact flow map, the direction of the rectification, who is on which side."""

import torch
from torch import Tensor, nn

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.methods.diffusion.twinflow import TwinFlow
from limbeck.models.denoiser import Denoiser
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.path import Flow
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world

MEAN, STD = torch.tensor([[1.0, -0.5]]).double(), 0.5


class Map(nn.Module):
    """The exact mean velocity of N(m, s^2) from t to r; on the twin side that of N(0, s^2)."""

    extras = 2

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(2).double())

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None, extra: Tensor) -> Tensor:
        t, r, side = t[:, None], extra[:, :1], extra[:, 1:]
        r = torch.where(r == t, t - 1e-6, r)
        mean = torch.where(side > 0, MEAN, torch.zeros_like(MEAN))

        def size(s: Tensor) -> Tensor:
            return (((1 - s) * STD).square() + s.square()).sqrt()

        there = (1 - r) * mean + size(r) / size(t) * (x - (1 - t) * mean)
        return (x - there) / (t - r) + self.shift


def exactly() -> TwinFlow:
    return TwinFlow(Denoiser(Map(), shape=(2,), path=Flow(), prediction="velocity"))


def test_the_exact_flow_map_is_its_own_any_step_target() -> None:
    torch.manual_seed(0)
    method, x, t = exactly(), torch.randn(64, 2).double(), (0.2 + 0.8 * torch.rand(64)).double()
    r, y = t * torch.rand(64).double() * 0.9, torch.full((64,), -1)
    v = exact(GaussianMixture(MEAN, STD)).double()(x, t).velocity
    F = method.velocity(method.student, x, t, r, y)
    right, wrong = method.any_step(F, v, x, t, r, y), method.any_step(F + 0.1, v, x, t, r, y)
    assert float((right - F).abs().mean()) < 0.02  # of order e
    assert float((wrong - F - 0.1).mean()) < -0.2  # an error of F in 100 (t - r): clamped, and back
    near = method.any_step(v + 0.3, v, x, t, t - 0.001, y)
    torch.testing.assert_close(near, v)  # a step from r there is the velocity alone


def test_the_rectification_leads_from_the_twin_to_the_real_side() -> None:
    """The twin thinks the samples N(0, s^2), the real side N(m, s^2): descent on F moves x_hat = x_t - F along m."""
    torch.manual_seed(0)
    method, x = exactly(), torch.zeros(800, 2).double()
    rectify = method.loss(Samples(x, torch.full((800,), -1), torch.arange(800)), Clock(0, 2))["rectify"]
    (slope,) = torch.autograd.grad(rectify, method.student.net.shift)
    assert float(slope[0]) > 0 > float(slope[1])


def test_only_the_last_quarter_is_the_twins_and_sees_own_samples() -> None:
    torch.manual_seed(0)
    method, seen = TwinFlow(mlp(16, 2), rectification=0.0), []
    with torch.no_grad():
        method.student.net.more[2].weight.normal_()
    forward = method.student.net.forward
    method.student.net.forward = lambda x, t, y, e: (seen.append((x, t, e)), forward(x, t, y, e))[1]
    x = torch.full((16, 2), 100.0)
    terms = method.loss(Samples(x, torch.full((16,), -1), torch.arange(16)), Clock(0, 2))
    assert set(terms) == {"any_step", "twin"} and all(v.item() > 0 for v in terms.values())
    state, t, told = seen[1]  # after the samples themselves
    assert told[:, 1].tolist() == [1.0] * 12 + [-1.0] * 4
    assert torch.equal(t[:4], torch.ones(4)) and torch.equal(told[:4, 0], torch.zeros(4))
    assert (told[4:8, 0] >= 0.95 * t[4:8] - 1e-6).all() and torch.equal(told[12:, 0], t[12:])
    assert (state[12:].abs() < 50).all() and (state[8:12].mean(1) > 40 * (1 - t[8:12])).all()


def test_it_begins_as_the_flow_it_was_and_is_guided_by_itself() -> None:
    world = diffusion_world()
    b, teacher = world.batch(8), world.teachers[0]
    method = TwinFlow(world.student())
    plain = world.student()
    t = torch.full((8,), 0.5)
    torch.testing.assert_close(method.velocity(method.student, b.x, t, 0 * t, b.y, -1.0), plain(b.x, t, b.y).velocity)
    method = TwinFlow(teacher, guidance=0.5)
    gap = teacher(b.x, t, b.y).velocity - teacher(b.x, t, None).velocity
    torch.testing.assert_close(method.enhanced(b.x, b.x, t, b.y), b.x + 0.5 * gap)
    torch.testing.assert_close(method.enhanced(b.x, b.x, torch.ones(8), b.y), b.x)
