"""CDM: runs of random length, the line off the path is the kept one, and the divisor has a floor."""

import torch
from torch import nn

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.methods.diffusion.cdm import CDM
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world


def points(n: int = 64) -> Samples:
    return Samples(torch.randn(n, 2), torch.full((n,), -1), torch.arange(n))


def test_a_run_is_euler_steps_at_falling_random_times() -> None:
    """Each state is the one before plus ``(s - t) v``; times begin at 1 and lie in [0.25, 0.95]."""
    torch.manual_seed(0)
    method, lengths = CDM(mlp(16, 2), mlp(16, 2), guidance=0.0, longest=5), set()
    for _ in range(40):
        states, said = method.rollout(points(8))
        times = [float(d.t[0]) for d in said]
        lengths.add(len(times))
        assert times[0] == 1 and times == sorted(times, reverse=True) and all(0.25 <= t <= 0.95 for t in times[1:])
        for k in range(len(times) - 1):
            assert torch.allclose(states[k + 1], states[k] + (times[k + 1] - times[k]) * said[k].velocity, atol=1e-5)
    assert lengths == {1, 2, 3, 4, 5}


def test_off_the_path_the_student_is_asked_on_the_kept_line() -> None:
    """``x_u = x_t + (u - t) v_t`` with what was said in the run, without gradient, though the student has moved."""
    torch.manual_seed(0)
    method = CDM(mlp(16, 2), exact(GaussianMixture(torch.zeros(1, 2), 0.5)), guidance=0.0)
    states, said = method.rollout(points(32))
    with torch.no_grad():
        for p in method.student.parameters():
            p += 0.1 * torch.randn_like(p)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    forward = method.student.net.forward
    method.student.net.forward = lambda x, t, y, e: (seen.append((x, t)), forward(x, t, y, e))[1]
    method.losses(states[0], said[0], points(32).y)
    (on, t), (off, u) = seen
    assert torch.equal(on, states[0]) and not off.requires_grad and u.min() > 0.0199 and u.max() < 0.9801
    assert torch.allclose(off, states[0] + (u - t)[:, None] * said[0].velocity, atol=1e-5)


def test_the_shield_leads_to_the_teacher_divided_by_a_distance_with_a_floor() -> None:
    torch.manual_seed(0)
    teacher = exact(GaussianMixture(torch.tensor([[2.0, 0.0]]), 0.5))
    method = CDM(mlp(16, 2), teacher, guidance=0.0)
    method.critic = exact(GaussianMixture(torch.zeros(1, 2), 0.5))
    x, y = 0.5 * torch.randn(512, 2), torch.full((512,), -1)
    torch.manual_seed(1)
    near = method.shield(x, y)
    assert float(near[:, 0].mean()) > 5 * float(near[:, 1].mean().abs())
    method.floor = 100.0
    torch.manual_seed(1)
    s = 0.02 + 0.96 * torch.rand(512)
    x_s = teacher.path.noised(x, torch.randn(512, 2), s)
    torch.manual_seed(1)
    assert torch.allclose(method.shield(x, y) * 100, teacher(x_s, s).x0 - method.critic(x_s, s).x0, atol=1e-4)


def test_the_critic_is_drawn_to_the_student_after_each_of_its_steps() -> None:
    world = diffusion_world()
    student = mlp(32, 3, shape=(1, 4, 4), classes=3)
    method = CDM(student, world.teachers[0], pull=0.75, ratio=2)
    before = [p.detach().clone() for p in method.critic.parameters()]
    players = [u.player for u in method.updates(world.batch(8), Clock(0, 4))]  # no optimiser: the pull alone
    assert players == ["critic"]
    for was, now, theirs in zip(before, method.critic.parameters(), student.parameters(), strict=True):
        assert torch.allclose(now, 0.75 * was + 0.25 * theirs, atol=1e-6)
    assert not CDM(world.student(), world.teachers[0]).alike and isinstance(method.critic, nn.Module)
