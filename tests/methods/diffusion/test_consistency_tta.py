"""ConsistencyTTA: true to its boundary, at rest at the truth, guided by the w it is told, and led by its reward."""

import pytest
import torch
from torch import Tensor, nn

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.methods.diffusion.consistency_tta import ConsistencyTTA, Query, consistent
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.path import Flow
from limbeck.models.sampling import solve
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world

POINT = torch.tensor([[0.5, -1.0]])


class ToPoint(nn.Module):
    """Answers the F for which ``c_skip z + c_out F`` is the point where all trajectories end."""

    def __init__(self, data: float) -> None:
        super().__init__()
        self.data, self.off = data, nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None, extra: Tensor | None) -> Tensor:
        goal = POINT + self.off * t[:, None]
        if not self.data:
            return goal
        skip = self.data**2 / ((t / (1 - t)).square() + self.data**2)[:, None]
        return (goal - skip * x) / (1 - skip).sqrt()


def test_without_noise_the_latent_comes_back_and_from_noise_the_networks_answer() -> None:
    torch.manual_seed(0)
    model, z = mlp(16, 2, prediction="x0"), torch.randn(64, 2)
    torch.testing.assert_close(consistent(model, z, 1e-6, None, None, 0.5), z, atol=1e-3, rtol=0)
    torch.testing.assert_close(consistent(model, z, 1.0, None, None, 0.5), model(z, 1.0).x0)
    half = consistent(model, z, 0.5, None, None, 0.5)  # r = 1: c_skip = 1/5, c_out = sqrt(4/5)
    torch.testing.assert_close(half, 0.2 * z + 0.8**0.5 * model(z, 0.5).x0)


@pytest.mark.parametrize("boundary", ["skip", "data"])
def test_the_truth_has_no_loss_and_errors_are_led_back(boundary: str) -> None:
    torch.manual_seed(0)
    batch = Samples(POINT.expand(512, 2), torch.full((512,), -1), torch.arange(512))
    slopes = []
    for off in (0.0, 0.4, -0.4):
        net = ToPoint(0.5 if boundary == "skip" else 0.0)
        student = Denoiser(net, shape=(2,), path=Flow(), prediction="x0")
        teacher = exact(GaussianMixture(POINT, 1e-4))
        method = ConsistencyTTA(student, teacher, scale=1.0, boundary=boundary, sigma_min=0.05, first=0.0)
        with torch.no_grad():
            net.off.fill_(off)
        method.average.update(student, 0.0)
        (update,) = method.updates(batch, Clock(0, 1))
        slopes.append(torch.autograd.grad(update.loss, net.off)[0].item())
        assert (update.loss.item() < 1e-4) is (off == 0)
    assert slopes[1] > 0.01 and slopes[2] < -0.01


def test_the_student_is_told_the_scale_that_guided_its_teacher() -> None:
    world = diffusion_world()
    b, teacher = world.batch(64), world.teachers[0]
    student = mlp(16, 2, shape=(1, 4, 4), classes=3, extras=1)
    method = ConsistencyTTA(student, teacher, first=0.0, snr_gamma=0.0)
    w, told = method.scales(b.x)
    assert told is not None and torch.equal(told[:, 0], w) and 4 < w.max() < 6 and 0 < w.min() < 2
    z, t, near = torch.randn_like(b.x), torch.full((64,), 0.7), torch.full((64,), 0.6)
    moved = solve(Guided(teacher, w), z, [t, near], b.y, solver="heun")[-1]
    for k in range(3):  # slow reference: the paper's interpolation, one sample at a time
        x, y, none, u = z[k : k + 1], b.y[k : k + 1], torch.tensor([-1]), float(w[k])
        slope = lambda at, s: u * teacher(at, s, y).velocity + (1 - u) * teacher(at, s, none).velocity  # noqa: E731, B023
        first = slope(x, 0.7)
        torch.testing.assert_close(
            moved[k : k + 1], x - 0.05 * (first + slope(x - 0.1 * first, 0.6)), atol=1e-5, rtol=1e-4
        )
    untold = ConsistencyTTA(world.student(), teacher, scale=3.0)
    assert untold.scales(b.x) == (3.0, None) and untold.sampler.told is None and method.sampler.told == 4.0


def test_direct_guidance_is_of_the_student_and_the_weights_are_clipped() -> None:
    torch.manual_seed(0)
    world = diffusion_world()
    student, y, noise = world.student(), torch.arange(8) % 3, torch.randn(8, 1, 4, 4)
    method = ConsistencyTTA(student, world.teachers[0], guidance="direct", scale=3.0)
    assert method.scales(noise) == (1.0, None)
    at = student.prior(noise, float(method.grid[-1]))
    c, u = (consistent(student, at, float(method.grid[-1]), label, None, 0.5) for label in (y, None))
    torch.testing.assert_close(student.generate(noise, y), 3 * c - 2 * u, atol=1e-4, rtol=1e-4)
    t = Flow().time(torch.tensor([0.1, 0.5, 2.0]))  # SNR 100, 4 and 1/4
    apart = torch.eye(3)
    found = torch.stack([method.weighed(apart[k : k + 1], t[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(found, torch.tensor([5.0, 4.0, 0.25]) / 3)


def test_the_reward_comes_last_and_is_climbed() -> None:
    class First(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x[:, 0]

    torch.manual_seed(0)
    batch = Samples(POINT.expand(64, 2), torch.full((64,), -1), torch.arange(64))
    method = ConsistencyTTA(mlp(16, 2, prediction="x0"), exact(GaussianMixture(POINT, 0.2)), First(), scale=1.0)
    told = [list(next(method.updates(batch, Clock(k, 10))).terms) for k in (0, 4, 9)]
    assert told == [["guidance"], ["consistency"], ["consistency", "reward"]]
    reward = next(method.updates(batch, Clock(9, 10))).terms["reward"]
    (slope,) = torch.autograd.grad(reward, method.student.net.leave.bias)
    assert slope[0] < 0 and slope[1] == 0  # down the loss: up the first axis
    assert Query((1.0, 0.5)).nfe == 2
