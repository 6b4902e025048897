"""DisBack: the way is recorded from the teacher to the student, gone back stop by stop, and ends at the teacher."""

import itertools
from functools import partial

import torch
from torch import nn

from limbeck import fit
from limbeck.core.schedule import Clock
from limbeck.data.samples import SampleBatches, SampleSet
from limbeck.methods.diffusion.disback import DisBack
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world


def noise_batches() -> SampleBatches:
    return SampleBatches(SampleSet(torch.randn(512, 2), torch.full((512,), -1)), 128)


def test_the_stops_lead_from_the_teacher_to_what_the_student_makes() -> None:
    """G_0 makes points about (3, 3); each copy sees clean samples nearer to them than the copy before."""
    torch.manual_seed(0)
    teacher, student = mlp(32, 2), mlp(16, 2)
    for p in (student.net.leave.weight, teacher.net.leave.weight):
        nn.init.normal_(p, std=0.01)
    nn.init.constant_(student.net.leave.bias, -3.0)  # x0 = x - v
    method = DisBack(student, teacher, stops=3)
    before = student.state_dict()["net.leave.bias"].clone()
    fit(method, noise_batches(), partial(torch.optim.Adam, lr=3e-3), steps=60)
    x = torch.randn(256, 2)
    seen = [float(model(x, 0.8).x0.mean()) for model in (teacher, *method.recorded)]
    assert all(b > a + 0.1 for a, b in itertools.pairwise(seen)) and 1 < seen[-1] < 4, seen
    assert torch.equal(student.state_dict()["net.leave.bias"], before), "the student waits"


def test_the_way_back_begins_before_the_last_stop_and_ends_at_the_teacher() -> None:
    path = nn.ModuleList(mlp(8, 1) for _ in range(4))
    teacher = mlp(8, 1)
    method = DisBack(mlp(8, 1), teacher, path, backtracking=0.5)
    named = {id(m): k + 1 for k, m in enumerate(path)} | {id(teacher): 0}
    told = [named[id(method.target(Clock(step, 120)))] for step in range(120)]
    assert told[:60] == [3] * 20 + [2] * 20 + [1] * 20 and told[60:] == [0] * 60
    last, critic = path[-1].state_dict(), method.critic.state_dict()
    assert all(torch.equal(critic[k], v) for k, v in last.items()), "the critic begins as the last stop"


def test_the_step_leads_to_the_teacher_of_the_moment() -> None:
    def at(x: float) -> nn.Module:
        return exact(GaussianMixture(torch.tensor([[x, 0.0]]), 0.5))

    torch.manual_seed(0)
    path = nn.ModuleList([at(-2.0), at(0.0)])
    method = DisBack(mlp(8, 1), at(2.0), nn.ModuleList([mlp(8, 1), mlp(8, 1)]), backtracking=0.5)
    method.path, method.critic = path, at(0.0)
    for step, sign in ((0, 1.0), (99, -1.0)):  # first to the stop at -2, at last to the teacher at +2
        x = (0.5 * torch.randn(512, 2)).requires_grad_()
        (slope,) = torch.autograd.grad(method.matching(x, torch.full((512,), -1), Clock(step, 100)), x)
        assert sign * float(slope[:, 0].mean()) > 5 * float(slope[:, 1].mean().abs())


def test_the_two_stages_take_their_shares_of_steps() -> None:
    world, seen = diffusion_world(), []
    setting = world.setting(steps=10)
    run = setting.fit
    object.__setattr__(
        setting, "fit", lambda m, name="fit", steps=10: (seen.append((name, steps)), run(m, name=name, steps=steps))[1]
    )
    DisBack.distil(setting, {"degradation": 0.3})
    assert seen == [("degradation", 3), ("fit", 10)]
