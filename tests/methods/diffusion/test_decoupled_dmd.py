"""Decoupled DMD: with one draw the two directions are DMD2's with guidance; the spear stays below its step's noise."""

import pytest
import torch

from limbeck.core.schedule import Clock
from limbeck.errors import InputError
from limbeck.methods.diffusion.decoupled_dmd import DecoupledDMD
from limbeck.models.denoiser import Guided
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world


def two_classes(shift: float = 2.0) -> GaussianMixture:
    return GaussianMixture(torch.tensor([[shift, 0.0], [-shift, 0.0]]), 0.5, labels=torch.tensor([0, 1]))


def test_with_one_draw_the_sum_is_dmd2_with_guidance() -> None:
    """``Delta_DM + Delta_CA = u + w (c - u) - mu_fake`` in the same noised sample."""
    torch.manual_seed(0)
    teacher = exact(two_classes())
    method = DecoupledDMD(mlp(16, 2, classes=2), teacher, guidance=3.5, augmented_at="shared", normalise=False)
    x, y = torch.randn(64, 2), torch.arange(64) % 2
    torch.manual_seed(1)
    shield, spear = method.directions(x, y, 1.0)
    torch.manual_seed(1)
    t = 0.02 + 0.96 * torch.rand(64)
    x_t = teacher.path.noised(x, torch.randn(64, 2), t)
    with torch.no_grad():
        coupled = Guided(teacher, 3.5)(x_t, t, y).x0 - method.critic(x_t, t, y).x0
    assert torch.allclose(shield + spear, coupled, atol=1e-5) and float(spear.abs().mean()) > 0.1


def test_the_spear_is_read_below_the_steps_own_noise_and_the_shield_anywhere() -> None:
    torch.manual_seed(0)
    seen: list[float] = []
    method = DecoupledDMD(mlp(16, 2, classes=2), exact(two_classes()), guidance=2.0)
    noised = method.noised
    method.noised = lambda x, latest: (seen.append(latest), noised(x, latest))[1]  # type: ignore[method-assign]
    for t in (1.0, 0.5, 0.25):
        method.directions(torch.randn(8, 2), torch.zeros(8, dtype=torch.int64), t)
    assert seen == [0.98, 0.98, 0.98, 0.5, 0.98, 0.25]
    assert float(noised(torch.randn(4096, 2), 0.25)[1].max()) <= 0.25


def test_the_spear_leads_away_from_the_other_class_and_knows_no_critic() -> None:
    torch.manual_seed(0)
    method = DecoupledDMD(mlp(16, 2, classes=2), exact(two_classes()), guidance=4.0)
    x, y = 0.3 * torch.randn(256, 2), torch.zeros(256, dtype=torch.int64)  # class 0 is at the right
    torch.manual_seed(1)
    shield, spear = method.directions(x, y, 1.0)
    assert float(spear[:, 0].mean()) > 0.1
    method.critic = exact(two_classes(1.0))
    torch.manual_seed(1)
    other, same = method.directions(x, y, 1.0)
    assert torch.equal(same, spear) and not torch.allclose(other, shield)


def test_the_shield_rests_at_the_teacher_and_leads_to_it() -> None:
    world = diffusion_world()
    b, method = world.batch(16), DecoupledDMD(world.student(), world.teachers[0])
    assert float(method.directions(b.x, b.y, 1.0)[0].abs().max()) < 1e-6
    torch.manual_seed(0)
    method = DecoupledDMD(mlp(16, 2), exact(GaussianMixture(torch.tensor([[2.0, 0.0]]), 0.5)), guidance=1.0)
    method.critic = exact(GaussianMixture(torch.zeros(1, 2), 0.5))
    shield, _ = method.directions(0.5 * torch.randn(512, 2), torch.full((512,), -1), 1.0)
    assert float(shield[:, 0].mean()) > 5 * float(shield[:, 1].mean().abs())


def test_without_a_shield_no_critic_learns_and_guidance_needs_classes() -> None:
    world = diffusion_world()
    method = DecoupledDMD(world.student(), world.teachers[0], matching=0.0, ratio=2)
    told = [[(u.player, set(u.terms)) for u in method.updates(world.batch(8), Clock(k, 4))] for k in range(2)]
    assert told == [[("student", {"augmentation"})], []]
    with pytest.raises(InputError, match="guidance"):
        DecoupledDMD(mlp(16, 2), mlp(16, 2))
