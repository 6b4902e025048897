"""GET: every iterate is held to the pair's sample, by its mean absolute error; the student is built to measure."""

import pytest
import torch

from limbeck.core.method import Setting
from limbeck.core.schedule import Clock
from limbeck.data.samples import SampleBatches, Samples
from limbeck.errors import InputError
from limbeck.methods.diffusion.get_deq import GetDEQ
from limbeck.models.equilibrium import Equilibrium, equilibrium
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world


def batch() -> Samples:
    torch.manual_seed(0)
    return Samples(torch.randn(6, 1, 4, 4), torch.tensor([0, 1, 2, -1, 0, 1]), torch.arange(6), torch.randn(6, 1, 4, 4))


def test_the_loss_is_the_absolute_error_of_the_iterates_the_last_most() -> None:
    b, teacher = batch(), mlp(8, 2, shape=(1, 4, 4), classes=3)
    student = equilibrium((1, 4, 4), 3, iterations=3)
    student.net.iterates = lambda x, y: [b.x + 1.0, b.x - 2.0, b.x + 3.0]
    for gamma, expected in ((0.8, 0.64 * 1 + 0.8 * 2 + 3), (1.0, 6.0), (0.0, 3.0)):
        assert GetDEQ(student, teacher, gamma=gamma).loss(b, Clock(0, 1))["l1"].item() == pytest.approx(expected)


def test_noise_and_label_are_what_goes_in() -> None:
    b, method = batch(), GetDEQ(equilibrium((1, 4, 4), 3), mlp(8, 2, shape=(1, 4, 4), classes=3))
    torch.nn.init.normal_(method.student.net.blocks[0].move.weight)
    method.student.eval()
    method.gamma = 1.0
    found = method.loss(b, Clock(0, 1))["l1"] / 6
    made = torch.stack(method.student.net.iterates(b.noise, torch.tensor([0, 1, 2, 3, 0, 1])))
    torch.testing.assert_close(found, (made - b.x).abs().mean())
    for other in (b._replace(noise=b.x), b._replace(y=b.y.roll(1))):
        assert not torch.allclose(found, method.loss(other, Clock(0, 1))["l1"] / 6, atol=1e-5)


def test_the_student_is_built_to_the_teachers_shape_or_taken_as_it_is() -> None:
    world, seen = diffusion_world(), []
    data = SampleBatches(world.train, 16, seed=0)

    def fit(method, *, name="fit", data=None):  # type: ignore[no-untyped-def]
        seen.append(data.data)

    setting = Setting(world.student, world.teachers, data, 2, fit)
    made = GetDEQ.distil(setting, {"steps": 3, "iterations": 2, "pairs": 20, "width": 16})
    assert isinstance(made.net, Equilibrium) and (made.net.iterations, made.classes) == (2, ("ant", "bee", "cat"))
    assert len(seen[0]) == 20 and seen[0].noise.shape == (20, 1, 4, 4)
    own = equilibrium((1, 4, 4), 3, iterations=4)
    assert GetDEQ.distil(Setting(lambda: own, world.teachers, data, 2, fit), {"steps": 3}) is own
    with pytest.raises(InputError, match="student"):
        GetDEQ(world.student(), world.teachers[0])
