"""TDD: the targets are what samplers visit; exact jumps have no loss; only the student loses labels."""

import torch
from torch import Tensor, nn

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.methods.diffusion.tdd import TDD, visited
from limbeck.models.denoiser import Denoiser
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.path import Flow
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world


def test_the_targets_are_the_times_that_samplers_visit() -> None:
    assert visited(4, 4, 100) == (0, 25, 50, 75)
    assert visited(2, 3, 60) == (0, 20, 30, 40)
    assert visited(1, 1, 250) == (0,)  # a latent consistency model
    torch.manual_seed(0)
    method = TDD(mlp(8, 2), mlp(8, 2), n_min=2, n_max=3, grid=60, window=0.2, eta=0.0, guidance=0.0)
    found = {n: {round(60 * float(s)) for s in method.targets(torch.full((300,), n))} for n in (5, 20, 29, 35, 59)}
    assert found == {5: {0}, 20: {20}, 29: {20}, 35: {20, 30}, 59: {30, 40}}
    method.eta = 0.3
    s = 60 * method.targets(torch.full((4000,), 29))
    assert 14.0 <= float(s.min()) < 14.1 and 19.9 < float(s.max()) <= 20.0


class Line(nn.Module):
    """The velocity of the true straight trajectories to one point: every jump is exact."""

    def __init__(self, point: Tensor, off: float = 0.0) -> None:
        super().__init__()
        self.point, self.off = point, nn.Parameter(torch.tensor(off))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None, extra: Tensor | None) -> Tensor:
        return (x - self.point - self.off * t[:, None]) / t[:, None].clamp(min=1e-6)


def test_the_true_jumps_have_no_loss_and_others_are_led_to_them() -> None:
    torch.manual_seed(0)
    point = torch.tensor([0.5, -1.0])
    teacher = exact(GaussianMixture(point[None], 1e-4))
    batch = Samples(point + torch.zeros(256, 2), torch.full((256,), -1), torch.arange(256))
    slopes = []
    for off in (0.0, 0.4, -0.4):
        student = Denoiser(Line(point, off), shape=(2,), path=Flow(), prediction="velocity")
        loss = TDD(student, teacher, grid=20, guidance=0.0).loss(batch, Clock(0, 1))["consistency"]
        slopes.append(float(torch.autograd.grad(loss, student.net.off)[0]))
        assert (float(loss.detach()) < 1e-4) is (off == 0)
    assert slopes[1] > 0.01 and slopes[2] < -0.01


def test_only_the_student_loses_labels() -> None:
    world = diffusion_world()
    batch, method = world.batch(16), TDD(world.student(), world.teachers[0], unlabelled=1.0)
    seen: list[tuple[str, Tensor]] = []
    for name, model in (("student", method.student), ("teacher", method.teacher)):
        model.register_forward_pre_hook(lambda _, inputs, name=name: seen.append((name, inputs[2])))
    method.loss(batch, Clock(0, 1))
    told = {name: y for name, y in seen}
    assert (told["student"] == -1).all() and torch.equal(told["teacher"], torch.cat([batch.y, -torch.ones(16).long()]))
