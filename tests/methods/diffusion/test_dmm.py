"""DMM: a student that is its one teacher has no loss, every teacher answers for its number, conditions are shared."""

import pytest
import torch
from torch import nn

from limbeck.core.schedule import Clock
from limbeck.errors import InputError
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.dmm import DMM
from limbeck.models.denoiser import Denoised, Denoiser, Told
from limbeck.models.path import Flow
from tests.worlds import diffusion_world

NOW = Clock(0, 1)


def test_one_teacher_and_its_own_copy_begin_without_loss() -> None:
    world = diffusion_world()
    student = trainable(world.teachers[0]).told(1)
    method = DMM(student, nn.ModuleList(world.teachers)).eval()
    for term in method.loss(world.batch(16), NOW).values():
        assert float(term) < 1e-10


class Says(nn.Module):
    """Always the same noise; keeps what it was asked."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number, self.asked = number, []

    def forward(self, x, t, y, extra):
        self.asked.append((y, extra))
        return torch.full_like(x, self.number)


def says(number: float, extras: int = 0) -> Denoiser:
    net = Says(number)
    net.extras = extras
    return Denoiser(net, shape=(1, 4, 4), path=Flow(), prediction="eps", classes=3)


def test_every_teacher_is_matched_under_its_own_number_with_the_same_labels() -> None:
    world, student, teachers = diffusion_world(), says(0.0, 2), [says(1.0), says(3.0)]
    method = DMM(student, nn.ModuleList(teachers), features=0.0, unlabelled=0.5)
    torch.manual_seed(0)
    loss = method.loss(world.batch(16), NOW)
    assert float(loss["prediction"]) == pytest.approx((1.0 + 9.0) / 2)
    for k, teacher in enumerate(teachers):
        (theirs, _), (mine, told) = teacher.net.asked[0], student.net.asked[k]
        assert torch.equal(theirs, mine) and (theirs == 3).any() and (theirs < 3).any()
        assert told.tolist() == [[float(k == 0), float(k == 1)]] * 8


def test_styles_are_weights_that_sum_to_one() -> None:
    method = DMM(says(0.0, 2), nn.ModuleList([says(1.0), says(3.0)]), features=0.0)
    assert method.student.sampler.extra == (1.0, 0.0) and method.style(0.3, 0.7).extra == (0.3, 0.7)
    with pytest.raises(InputError, match="sum to 1"):
        method.style(0.5, 0.7)
    with pytest.raises(InputError, match=r"student.told"):
        DMM(says(0.0, 1), nn.ModuleList([says(1.0), says(3.0)]))


def test_a_merged_student_is_the_teacher_of_an_old_number() -> None:
    student = says(2.0, 2)
    old = Told(student, 0.0, 1.0)
    said = old(torch.randn(4, 1, 4, 4), 0.5, torch.tensor([0, 1, 2, -1]))
    assert isinstance(said, Denoised) and student.net.asked[0][1].tolist() == [[0.0, 1.0]] * 4
    with pytest.raises(InputError, match="is told 2"):
        Told(student, 1.0)
