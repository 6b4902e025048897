"""MLCM: its states are the teacher's own, at an edge the goal is the state itself, and the average begins anew."""

import pytest
import torch

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.methods.diffusion._jumps import below, consistency, edges
from limbeck.methods.diffusion.mlcm import MLCM
from limbeck.models.gaussian_mixture import exact, ring
from limbeck.models.sampling import Ode, Solver
from limbeck.models.tiny_denoiser import mlp


def batch(n: int = 64, scale: float = 1.0) -> Samples:
    return Samples(scale * torch.ones(n, 2), torch.full((n,), -1), torch.arange(n))


def test_the_states_are_neighbours_of_the_teachers_own_trajectory() -> None:
    torch.manual_seed(0)
    teacher = exact(ring())
    method = MLCM(mlp(16, 2), teacher, guidance=1.0, trajectory=8, states=3)
    x_t, x_near, n, _ = method.neighbours(batch())
    assert x_t.shape == (192, 2) and set(n.tolist()) == set(range(1, 9))
    torch.testing.assert_close(teacher(x_t, n / 8).at((n - 1) / 8)[n > 1], x_near[n > 1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(teacher(x_t, n / 8).x0[n == 1], x_near[n == 1], atol=1e-5, rtol=1e-4)
    assert 0.85 < float(x_t[n == 8].std()) < 1.15  # pure noise
    torch.manual_seed(0)
    again = method.neighbours(batch(scale=100.0))[0]
    torch.manual_seed(0)
    torch.testing.assert_close(again, method.neighbours(batch())[0], rtol=0, atol=0)  # data play no part


@pytest.mark.parametrize("solver", ["ddim", "dpm2m"])
def test_trajectories_end_where_the_teacher_does_with_the_same_solver(solver: Solver) -> None:
    teacher = exact(ring())
    method = MLCM(mlp(16, 2), teacher, guidance=1.0, trajectory=6, states=1, solver=solver)
    torch.manual_seed(0)
    _, x_near, n, _ = method.neighbours(batch())
    torch.manual_seed(0)
    sampled = teacher.generate(torch.randn(64, 2), sampler=Ode(6, solver))
    torch.testing.assert_close(x_near[n == 1], sampled[n == 1])


def test_at_an_edge_the_goal_is_the_teachers_state() -> None:
    """With a segment a step, every goal is; with one segment only the last step's, whatever the student says."""
    torch.manual_seed(0)
    method = MLCM(mlp(16, 2), exact(ring()), guidance=1.0, trajectory=8)
    x_t, x_near, n, y = method.neighbours(batch())
    for count in (8, 1):
        low = below(n, edges(count, 8))
        _, goal = consistency(method.student, method.average, x_t, x_near, n / 8, (n - 1) / 8, low / 8, y)
        alike = (goal == x_near).all(1)
        assert torch.equal(alike, torch.ones_like(alike) if count == 8 else n == 1)


def test_the_jump_is_the_papers_and_the_average_begins_anew_with_fewer_segments() -> None:
    torch.manual_seed(0)
    method = MLCM(mlp(16, 2), exact(ring()), guidance=1.0, trajectory=8, segments=(4, 2), decay=1.0)
    x, t, b = torch.randn(8, 2), torch.full((8,), 0.7), torch.full((8,), 0.5)
    eps = method.student(x, t).eps
    torch.testing.assert_close(method.student(x, t).at(b), 0.5 / 0.3 * (x - 0.7 * eps) + 0.5 * eps)
    for step in range(4):
        assert len(list(method.updates(batch(), Clock(step, 4)))) == 1
        same = all(torch.equal(a, p) for a, p in zip(method.average.parameters(), method.student.parameters()))
        assert same is (step in (0, 2))
        with torch.no_grad():
            method.student.net.leave.bias += 1.0  # what the optimiser did
