"""ProlificDreamer: SDS is the special case, where the particles are led, what rests, views, no data."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from limbeck import fit
from limbeck.core.method import Clock
from limbeck.errors import InputError
from limbeck.methods.diffusion.prolificdreamer import ProlificDreamer
from limbeck.models.denoiser import Denoised
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.particles import Particles
from limbeck.models.tiny_denoiser import mlp


class Knows(nn.Module):
    """A critic that says the noise which was injected."""

    eps: Tensor

    def forward(self, x: Tensor, t: Tensor, y: Tensor, extra: Tensor | None) -> Denoised:
        return Denoised(x, self.eps, t, None)  # type: ignore[arg-type]


def test_with_the_injected_noise_for_a_critic_it_is_sds() -> None:
    torch.manual_seed(0)
    teacher, points = mlp(16, 2), torch.randn(6, 2)
    vsd = ProlificDreamer(Particles(points), teacher, guidance=1.0)
    sds = ProlificDreamer(Particles(points), teacher, guidance=1.0, critic="injected")
    assert list(sds.players()) == ["student"] and list(vsd.players()) == ["student", "critic"]
    eps, t, y = torch.randn(6, 2), torch.rand(6) * 0.8 + 0.1, torch.full((6,), -1)
    vsd.fake = Knows()  # type: ignore[assignment]
    vsd.fake.eps = eps  # type: ignore[union-attr]
    slopes: list[Tensor] = []
    for method in (vsd, sds):
        x = method.student(torch.arange(6))
        loss = method.matching(x, t, eps, y, None).sum()
        slopes.append(torch.autograd.grad(loss, method.student.params)[0])
    said = teacher(teacher.path.noised(points, eps, t), t).eps
    assert torch.equal(*slopes)
    assert torch.allclose(slopes[0], t[:, None] ** 2 * (said - eps) / 2, atol=1e-6)  # over the number of elements


def test_particles_are_led_to_the_teacher_and_rest_when_they_are_its_samples() -> None:
    teacher = exact(GaussianMixture(torch.tensor([[2.0, 0.0]]), 0.5))
    method = ProlificDreamer(Particles(0.5 * torch.randn(512, 2)), teacher, guidance=1.0, critic="injected")
    t, y = torch.full((512,), 0.5), torch.full((512,), -1)
    for means, leads in ((torch.zeros(1, 2), True), (torch.tensor([[2.0, 0.0]]), False)):
        method.fake = exact(GaussianMixture(means, 0.5))
        x = method.student(torch.arange(512))
        loss = method.matching(x, t, torch.randn_like(x), y, None).sum()
        (slope,) = torch.autograd.grad(loss, method.student.params)
        assert (float(slope[:, 0].max()) < -0.05) is leads and (float(slope.abs().max()) < 1e-6) is not leads


def test_vsd_keeps_a_spread_that_sds_loses() -> None:
    """On one Gaussian with an exact critic and no data: SDS draws the particles to the mode, VSD does not."""
    spread: dict[str, float] = {}
    for kind in ("learnt", "injected"):
        torch.manual_seed(0)
        teacher = exact(GaussianMixture(torch.zeros(1, 2), 0.5))
        method = ProlificDreamer(Particles(torch.randn(256, 2)), teacher, guidance=1.0, critic="injected")
        for k in range(200):
            if kind == "learnt":
                params = method.student.params.detach()
                method.fake = exact(GaussianMixture(params.mean(0, keepdim=True), float(params.std())))
            (update,) = [u for u in method.updates(None, Clock(k, 200)) if u.player == "student"]
            (slope,) = torch.autograd.grad(update.loss, method.student.params)
            method.student.params.data -= 0.5 * 512 * slope
        spread[kind] = float(method.student.params.detach().std())
    assert spread["learnt"] == pytest.approx(0.5, abs=0.05) and spread["injected"] < 0.3


class Shifted:
    """A camera that moves what it sees."""

    views = 1

    def look(self, count: int) -> Tensor:
        return torch.randn(count, 1)

    def render(self, params: Tensor, view: Tensor | None) -> Tensor:
        assert view is not None
        return params + view


def test_views_reach_the_critic_and_the_gradient_goes_through_the_renderer() -> None:
    torch.manual_seed(0)
    method = ProlificDreamer(Particles(torch.randn(8, 2), renderer=Shifted()), mlp(16, 2), guidance=1.0, rank=0)
    assert method.fake is not None and method.fake.extras == 1
    before = method.student.params.detach().clone()
    fit(method, None, partial(torch.optim.SGD, lr=0.1), steps=3)
    assert not torch.equal(method.student.params, before)
    assert method.student.generate(torch.zeros(11, 2)).shape == (11, 2)
    with pytest.raises(InputError, match="guidance"):
        ProlificDreamer(Particles(torch.randn(8, 2)), mlp(16, 2))
