"""Imagine Flash: no data in what the student sees, the noise kept in the first step, the teacher's target, gamma."""

import pytest
import torch

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.methods.diffusion.imagine_flash import Corrected, ImagineFlash
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.path import VP, Discrete
from limbeck.models.sampling import FewStep
from limbeck.models.tiny_denoiser import mlp


def nothing(n: int = 16) -> Samples:
    return Samples(torch.full((n, 2), torch.nan), torch.full((n,), -1), torch.arange(n))


def test_states_are_the_students_own_and_carry_no_gradient() -> None:
    """Data of nan reach neither inputs nor targets; what is trained on is what the sampler passes through."""
    torch.manual_seed(0)
    method, seen = ImagineFlash(mlp(16, 2), mlp(16, 2), gan=0.0), []
    forward = method.student.net.forward
    method.student.net.forward = lambda x, t, y, e: (seen.append((x, float(t[0]))), forward(x, t, y, e))[1]
    for k in range(12):
        seen.clear()
        (update,) = method.updates(nothing(), Clock(k, 12))
        update.loss.backward()
        assert torch.isfinite(update.loss) and not any(x.requires_grad for x, _ in seen)
        assert [t for _, t in seen] == pytest.approx([1.0, 2 / 3, 1 / 3][: len(seen)])
        passed = [method.own.state(method.student, seen[0][0], nothing().y, i) for i in range(len(seen))]
        assert all(torch.allclose(x, p) for (x, _), p in zip(seen[: len(passed)], passed))


def test_the_first_step_keeps_its_noise_and_only_the_first() -> None:
    """On a path with signal left at 1 the network's noise is not the one it was given; without, both are the same."""
    torch.manual_seed(0)
    noise, sampler = torch.randn(32, 2), Corrected((1.0, 0.6, 0.3))
    model = exact(GaussianMixture(torch.tensor([[2.0, 0.0]]), 0.5, path=Discrete((0.9, 0.5, 0.2, 0.05))))
    said = model(model.prior(noise), 1.0)
    expected = said._replace(eps=noise).at(0.6)
    torch.testing.assert_close(sampler.state(model, noise, None, 1), expected)
    assert not torch.allclose(said.at(0.6), expected, atol=1e-2)
    torch.testing.assert_close(sampler.state(model, noise, None, 2), model(expected, 0.6).at(0.3))
    flow = mlp(16, 2)
    plain = FewStep(sampler.times, gamma=0.0)(flow, noise)
    torch.testing.assert_close(sampler(flow, noise), plain, rtol=1e-5, atol=1e-6)


def test_the_target_is_the_teachers_sample_and_late_steps_keep_what_was_there() -> None:
    """From far the teacher's own distribution comes back, N(m, s^2), from near the sample nearly as it was."""
    torch.manual_seed(0)
    teacher = exact(GaussianMixture(torch.tensor([[2.0, 0.0]]), 0.5, path=VP()))
    method = ImagineFlash(
        mlp(8, 2, path=VP(), prediction="eps"), mlp(8, 2, path=VP()), near=0.05, far=0.98, teacher_steps=16
    )
    method.teacher, method.guided = teacher, teacher
    assert [method.shifted(k) for k in range(3)] == pytest.approx([0.98, 0.515, 0.05])
    x, y = torch.tensor([-1.0, 1.0]).expand(2000, 2), torch.full((2000,), -1)
    far, near = method.reconstructed(x, y, 0.98), method.reconstructed(x, y, 0.05)
    assert float(far.mean(0)[0]) == pytest.approx(2.0, abs=0.1) and float(far.std(0).mean()) > 0.3
    assert float(near.mean(0)[0]) < 0 and float(near.mean(0)[0]) > -1.0  # a little towards the teacher
