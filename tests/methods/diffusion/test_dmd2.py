"""DMD2: the step leads to the teacher, rests where critic and teacher agree, and the players keep apart."""

import torch

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.methods.diffusion.dmd2 import DMD2
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world


def batch(n: int = 512) -> Samples:
    return Samples(torch.randn(n, 2), torch.full((n,), -1), torch.arange(n))


def test_the_matching_step_leads_to_the_teacher_and_rests_there() -> None:
    torch.manual_seed(0)
    method = DMD2(mlp(16, 2), exact(GaussianMixture(torch.tensor([[2.0, 0.0]]), 0.5)))
    x, y = (0.5 * torch.randn(512, 2)).requires_grad_(), torch.full((512,), -1)
    method.critic = exact(GaussianMixture(torch.zeros(1, 2), 0.5))  # what x really is
    (slope,) = torch.autograd.grad(method.matching(x, y), x)
    assert float(slope[:, 0].mean()) < 0 and float(slope[:, 0].mean().abs()) > 5 * float(slope[:, 1].mean().abs())
    method.critic = method.teacher
    (slope,) = torch.autograd.grad(method.matching(x, y), x)
    assert float(slope.abs().max()) == 0


def test_only_the_teacher_is_guided() -> None:
    """With guidance, agreement of the unguided critic with the unguided teacher is no rest."""
    world = diffusion_world()
    b = world.batch(16)
    for guidance, rests in ((1.0, True), (4.0, False)):
        method = DMD2(world.student(), world.teachers[0], guidance=guidance)
        method.critic.load_state_dict(method.teacher.state_dict())
        x = b.x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(method.eval().matching(x, b.y), x)
        assert (float(slope.abs().max()) < 1e-6) is rests


def test_the_critic_takes_ratio_steps_to_one_of_the_generator() -> None:
    method = DMD2(mlp(16, 2), mlp(16, 2), ratio=3, gan=0.0)
    told = [[u.player for u in method.updates(batch(8), Clock(k, 6))] for k in range(6)]
    assert told == [["student", "critic"], ["critic"], ["critic"]] * 2


def test_later_steps_begin_where_the_sampler_gets_to() -> None:
    """The inputs of the second step are the generator's own first x0, noised again; gradient only in the last call."""
    torch.manual_seed(0)
    method = DMD2(mlp(16, 2), mlp(16, 2), times=(1.0, 0.5))
    seen: list[tuple[torch.Tensor, float, bool]] = []
    forward = method.student.net.forward
    method.student.net.forward = lambda x, t, y, e: (
        seen.append((x, float(t[0]), torch.is_grad_enabled())), forward(x, t, y, e)
    )[1]  # fmt: skip
    while len(seen) < 3:
        method.generate(batch(8))
    calls = [(t, on) for _, t, on in seen]
    assert (1.0, False) in calls and (0.5, True) in calls and (0.5, False) not in calls
