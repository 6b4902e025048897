"""BOOT: its step is DDIM's seen through the signal, the true trajectory is its fixed point, and data play no part."""

import pytest
import torch
from torch import Tensor, nn

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.methods.diffusion.boot import BOOT, signal
from limbeck.models.denoiser import Denoiser
from limbeck.models.gaussian_mixture import GaussianMixture, exact, ring
from limbeck.models.path import VP, Flow, Path, Trig
from limbeck.models.sampling import solve
from limbeck.models.tiny_denoiser import mlp


@pytest.mark.parametrize("path", [Flow(), Trig(), VP()])
def test_the_exact_step_is_ddim_and_euler_comes_near_it(path: Path) -> None:
    torch.manual_seed(0)
    teacher, noise, t = exact(ring(path=path, std=0.3)), torch.randn(64, 2), torch.full((64,), 0.6)
    y_t = 0.5 * torch.randn(64, 2)
    apart = []
    for delta in (0.02, 0.01):
        x_s = solve(teacher, path.noised(y_t, noise, t), [t, t - delta])[-1]
        true = (x_s - path.sigma(t - delta)[:, None] * noise) / path.alpha(t - delta)[:, None]
        method = BOOT(mlp(8, 2, path=path), teacher, delta=delta)
        torch.testing.assert_close(method.next(y_t, noise, t, None), true, atol=1e-5, rtol=1e-4)
        euler = BOOT(mlp(8, 2, path=path), teacher, delta=delta, step="euler", t_max=0.98)
        apart.append(float((euler.next(y_t, noise, t, None) - true).abs().max()))
    assert apart[1] < apart[0] / 3 and apart[0] < 0.05  # second order in one step


class Gaussian(nn.Module):
    """Answers the velocity that reads as the true signal of ``N(mean, std^2)``: ``sqrt(a^2 std^2 + s^2) eps - s eps``
    over a, and the mean."""

    def __init__(self, mean: Tensor, std: float, wrong: float = 0.0) -> None:
        super().__init__()
        self.mean, self.std, self.wrong = mean, std, nn.Parameter(torch.tensor(wrong))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None, extra: Tensor | None) -> Tensor:
        a, s = (1 - t)[:, None].clamp(min=1e-6), t[:, None]
        scale = (a * self.std).square() / ((a * self.std).square() + s.square()).sqrt().add(s) / a
        return x - (self.mean + scale * x + self.wrong * (1 - t)[:, None])


def test_the_true_trajectory_is_the_fixed_point() -> None:
    """The student that says the teacher's trajectory has (nearly) no loss; one that leaves it on the way has."""
    torch.manual_seed(0)
    mean = torch.tensor([0.7, -0.3])
    teacher = exact(GaussianMixture(mean[None], 0.4))
    batch = Samples(torch.zeros(512, 2), torch.full((512,), -1), torch.arange(512))
    found = {}
    for wrong in (0.0, 0.5, -0.5):
        student = Denoiser(Gaussian(mean, 0.4, wrong), shape=(2,), path=Flow(), prediction="velocity")
        method = BOOT(student, teacher, delta=0.01)
        terms = method.loss(batch, Clock(0, 1))
        (slope,) = torch.autograd.grad(terms["bootstrap"], student.net.wrong)
        found[wrong] = terms["bootstrap"].item(), terms["boundary"].item(), slope.item()
        made = student.generate(noise := torch.randn(4096, 2))
        if not wrong:
            signal_std = ((0.98 * 0.4) ** 2 + 0.02**2) ** 0.5 / 0.98 - 0.02 / 0.98  # at t_min
            torch.testing.assert_close(made.std(0), torch.full((2,), signal_std), atol=0.02, rtol=0)
            torch.testing.assert_close(made, signal(student, noise, torch.full((4096,), 0.02)))
    assert found[0.0][0] < 1e-6 and found[0.0][1] < 1e-6
    assert found[0.5][0] > 20 * found[0.0][0] and found[0.5][2] > 0 > found[-0.5][2]  # it is led back


def test_data_play_no_part_and_what_cannot_work_is_refused() -> None:
    method, found = BOOT(mlp(8, 2), mlp(8, 2)), []
    for scale in (0.0, 100.0):
        torch.manual_seed(1)
        x = torch.full((8, 2), scale)
        found.append(method.loss(Samples(x, torch.full((8,), -1), torch.arange(8)), Clock(0, 1))["bootstrap"])
    torch.testing.assert_close(*found, rtol=0, atol=0)
    with pytest.raises(InputError, match="prediction"):
        BOOT(mlp(8, 2, prediction="eps"), mlp(8, 2))
    with pytest.raises(InputError, match="t_max"):
        BOOT(mlp(8, 2), mlp(8, 2), step="euler")


def test_a_copy_of_the_teacher_holds_the_boundary() -> None:
    teacher = mlp(8, 2)
    method = BOOT(teacher, teacher)
    batch = Samples(torch.zeros(64, 2), torch.full((64,), -1), torch.arange(64))
    assert method.loss(batch, Clock(0, 1))["boundary"].item() < 1e-10
