"""SFD: the teacher's states are its own trajectory, the student is met where it is, and each step is one update."""

import pytest
import torch

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.methods.diffusion.sfd import SFD
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.sampling import grid, solve
from limbeck.models.tiny_denoiser import mlp

TEACHER = exact(GaussianMixture(torch.tensor([[2.0, -1.0]]), 0.5))
BATCH = Samples(torch.full((32, 2), torch.nan), torch.full((32,), -1), torch.arange(32))


def test_states_of_a_gaussian_are_the_closed_form() -> None:
    torch.manual_seed(0)
    noise = torch.randn(64, 2)
    states = SFD(mlp(8, 2), TEACHER, steps=(4,), finer=32).states(noise, BATCH.y, 4)
    assert len(states) == 5
    for t, x in zip(grid(4), states):
        size = ((0.5 * (1 - t)) ** 2 + t**2) ** 0.5
        torch.testing.assert_close(x, (1 - t) * torch.tensor([2.0, -1.0]) + size * noise, rtol=0, atol=0.01)


def test_every_step_is_an_update_from_where_the_student_is() -> None:
    """The same noises as the teacher's, then the student's own states: not the teacher's, and without gradient."""
    torch.manual_seed(0)
    method, seen = SFD(mlp(16, 2), TEACHER, steps=(3,)), []
    forward = method.student.net.forward
    method.student.net.forward = lambda x, t, y, e: (seen.append(x), forward(x, t, y, e))[1]
    for k, update in enumerate(method.updates(BATCH, Clock(0, 2))):
        assert list(update.terms) == [f"step {k + 1}"]
    assert len(seen) == 3 and not any(x.requires_grad for x in seen)
    own = solve(method.student, seen[0].clone(), grid(3))
    for x, expected in zip(seen[:3], own):
        torch.testing.assert_close(x, expected.detach())
    assert not torch.allclose(seen[2], method.states(seen[0], BATCH.y, 3)[2], atol=0.05)


def test_the_loss_is_zero_for_a_student_that_steps_as_the_teacher() -> None:
    """With one fine step of Euler's teacher to one of the student's, teacher and student are one."""
    teacher = mlp(16, 2)
    method = SFD(teacher, teacher, solver="ddim", finer=1)
    assert all(update.loss.item() == 0 for update in method.updates(BATCH, Clock(0, 1)))
    method = SFD(mlp(16, 2), teacher, solver="ddim", finer=2)
    assert all(update.loss.item() > 0 for update in method.updates(BATCH, Clock(0, 1)))


@pytest.mark.parametrize("steps", [(4,), (2, 5)])
def test_one_student_for_several_numbers_of_steps(steps: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    method = SFD(mlp(16, 2), TEACHER, steps=steps)
    taken = {len(list(method.updates(BATCH, Clock(k, 20)))) for k in range(20)}
    assert taken == set(steps) and method.student.sampler.nfe == steps[-1]
    assert method.student.extras == (len(steps) > 1)
    noise = torch.randn(8, 2)
    last = solve(method.student, noise, grid(steps[-1]), extra=torch.full((8, 1), 1 / steps[-1]))[-1]
    torch.testing.assert_close(method.student.generate(noise), last.detach())
