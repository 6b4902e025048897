"""SwiftBrush: the gradient of score distillation with noise for a critic, rest at the teacher, adapters alone learn."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.methods.diffusion.swiftbrush import SwiftBrush
from limbeck.models.denoiser import Denoised
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.path import Flow, wide
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world


class Injected(nn.Module):
    """Knows the clean sample, so that its noise is what was injected."""

    def __init__(self, x0: Tensor) -> None:
        super().__init__()
        self.x0, self.path, self.classes = x0, Flow(), ()

    def forward(self, x: Tensor, t: Tensor, y: Any = None, extra: Any = None) -> Denoised:
        return Denoised(self.x0, (x - wide(1 - t, x) * self.x0) / wide(t, x), t, self.path)


def test_with_the_injected_noise_for_a_critic_it_is_score_distillation() -> None:
    """``sigma_t^2 (eps_psi(x_t) - eps)``, over the number of elements; by hand from the same random numbers."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 2, requires_grad=True), torch.full((64,), -1)
    teacher = exact(GaussianMixture(torch.tensor([[2.0, 0.0], [-1.0, 1.0]]), 0.5))
    method = SwiftBrush(mlp(16, 2), teacher, guidance=1.0)
    method.critic = Injected(x.detach())
    torch.manual_seed(1)
    (slope,) = torch.autograd.grad(method.matching(x, y), x)
    torch.manual_seed(1)
    t = 0.02 + 0.96 * torch.rand(64)
    eps = torch.randn(64, 2)
    x_t = (1 - t)[:, None] * x.detach() + t[:, None] * eps
    sds = t[:, None] ** 2 * (teacher(x_t, t).eps - eps)
    assert torch.allclose(slope * 64 * 2, sds, atol=1e-5)


def test_the_step_leads_to_the_teacher() -> None:
    torch.manual_seed(0)
    method = SwiftBrush(mlp(16, 2), exact(GaussianMixture(torch.tensor([[2.0, 0.0]]), 0.5)), guidance=1.0)
    method.critic = exact(GaussianMixture(torch.zeros(1, 2), 0.5))
    x = (0.5 * torch.randn(512, 2)).requires_grad_()
    (slope,) = torch.autograd.grad(method.matching(x, torch.full((512,), -1)), x)
    assert float(slope[:, 0].mean()) < 0 and float(slope[:, 0].mean().abs()) > 5 * float(slope[:, 1].mean().abs())


@pytest.mark.parametrize(("guided", "rests"), [("both", True), ("teacher", False)])
def test_guiding_both_rests_at_the_teacher_and_guiding_one_does_not(guided: Any, rests: bool) -> None:
    world = diffusion_world()
    b, method = world.batch(16), SwiftBrush(world.student(), world.teachers[0], guided=guided)
    x = b.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(method.matching(x, b.y), x)
    assert (float(slope.abs().max()) < 1e-6) is rests


def test_only_adapters_learn_over_the_teachers_own_weights() -> None:
    world = diffusion_world()
    teacher = world.teachers[0]
    method = SwiftBrush(world.student(), teacher, rank=2, alpha=2.0)
    held = {id(p) for p in teacher.parameters()}
    assert held <= {id(p) for p in method.critic.parameters()}, "the weights are shared"
    assert not held & {id(p) for p in method.players()["critic"]}
    b = world.batch(8)
    said = teacher(b.x, 0.5, b.y).eps
    assert torch.equal(method.critic(b.x, 0.5, b.y).eps, said)
    for update in method.updates(Samples(b.x, b.y, b.index), Clock(0, 2)):
        moved = torch.autograd.grad(update.loss, method.players()[update.player], allow_unused=True)
        with torch.no_grad():
            for p, g in zip(method.players()[update.player], moved, strict=True):
                p -= 0.1 * g if g is not None else 0.0
    assert not torch.allclose(method.critic(b.x, 0.5, b.y).eps, said) and torch.equal(teacher(b.x, 0.5, b.y).eps, said)
