"""InstaFlow: pairs keep their noise, reflow learns the mean way through a point, distillation ends where it ends."""

import pytest
import torch

from limbeck.core.method import Setting
from limbeck.core.schedule import Clock
from limbeck.data.samples import SampleBatches, Samples, SampleSet
from limbeck.methods.diffusion._pairs import Reflow, pairs
from limbeck.methods.diffusion._shared import denoising
from limbeck.methods.diffusion.instaflow import InstaFlow
from limbeck.models.denoiser import Guided
from limbeck.models.gaussian_mixture import GaussianMixture, exact, ring
from limbeck.models.sampling import Ode
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world


def none(n: int = 64) -> SampleSet:
    return SampleSet(torch.zeros(n, 2), torch.full((n,), -1))


def test_pairs_of_a_gaussian_are_the_closed_form_and_come_again() -> None:
    """The ODE of N(m, s^2) ends at m + s noise."""
    teacher = exact(GaussianMixture(torch.tensor([[2.0, -1.0]]), 0.5))
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    made = pairs(teacher, none(), 300, sampler=Ode(100, "dpm2m"), seed=3, chunk=128)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert made.noise is not None
    torch.testing.assert_close(made.x, torch.tensor([2.0, -1.0]) + 0.5 * made.noise, rtol=0, atol=0.02)
    again = pairs(teacher, none(), 300, sampler=Ode(100, "dpm2m"), seed=3, chunk=128)
    assert torch.equal(again.x, made.x)


def test_pairs_are_guided_and_carry_labels() -> None:
    teacher = exact(ring(4, classes=4))
    like = SampleSet(torch.zeros(8, 2), torch.tensor([0, 0, 0, 0, 0, 0, 2, 2]), ("a", "b", "c", "d"))
    made = pairs(Guided(teacher, 1.0), like, 200, sampler=Ode(20, "dpm2m"))
    assert set(made.y.tolist()) == {0, 2} and (made.y == 0).float().mean() > 0.6
    near = torch.cdist(made.x, ring(4).means).argmin(1)
    assert torch.equal(near, made.y)
    further = pairs(Guided(teacher, 3.0), like, 200, sampler=Ode(20, "dpm2m"))
    assert not torch.allclose(further.x, made.x, atol=1e-2)


def test_straight_pairs_have_no_reflow_loss_and_crossing_ones_have() -> None:
    """The exact flow of a Gaussian's own pairs is not straight in t, but that of the pairs x = m + noise is."""
    torch.manual_seed(0)
    shifted = exact(GaussianMixture(torch.tensor([[3.0, 0.0]]), 1e-3))
    noise, t = torch.randn(64, 2), 0.1 + 0.8 * torch.rand(64)
    told = denoising(shifted, torch.tensor([3.0, 0.0]).expand(64, 2), t, target="velocity", noise=noise)
    assert float(told.max()) < 1e-3
    batch = Samples(torch.tensor([[3.0, 0.0]]).expand(64, 2), torch.full((64,), -1), torch.arange(64), noise)
    assert float(Reflow(shifted).loss(batch, Clock(0, 1))["reflow"]) < 0.01
    swapped = batch._replace(x=-batch.x)
    assert float(Reflow(shifted).loss(swapped, Clock(0, 1))["reflow"]) > 1


@pytest.mark.parametrize("rounds", [0, 2])
def test_stages_share_the_steps_and_the_noises(rounds: int) -> None:
    world, seen = diffusion_world(), []
    data = SampleBatches(world.train, 16, seed=0)

    def fit(method, *, name="fit", data=None, steps=0):  # type: ignore[no-untyped-def]
        seen.append((type(method).__name__, name, steps, data.data.noise))

    student = InstaFlow.distil(Setting(world.student, world.teachers, data, 9, fit), {"rounds": rounds, "steps": 4})
    assert [name for _, name, _, _ in seen] == [f"reflow-{k + 1}" for k in range(rounds)] + ["distil"]
    assert sum(steps for _, _, steps, _ in seen) == 9 and student.sampler.nfe == 1
    assert all(torch.equal(noise, seen[0][3]) for _, _, _, noise in seen)


def test_the_distillation_is_the_distance_of_one_euler_step() -> None:
    torch.manual_seed(0)
    method = InstaFlow(mlp(16, 2), mlp(16, 2))
    x, noise = torch.randn(8, 2), torch.randn(8, 2)
    batch = Samples(x, torch.full((8,), -1), torch.arange(8), noise)
    velocity = method.student.net(noise, torch.ones(8))  # noise-ward
    torch.testing.assert_close(method.loss(batch, Clock(0, 1))["distil"], (noise - velocity - x).square().mean())
