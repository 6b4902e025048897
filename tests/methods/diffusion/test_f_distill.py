"""f-distill: reverse KL is DMD2's step, the weights have mean 1 twice, the discriminator's logit is the log ratio."""

import pytest
import torch
from torch import Tensor

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.methods.diffusion._shared import logits_of
from limbeck.methods.diffusion.dmd2 import DMD2
from limbeck.methods.diffusion.f_distill import FDistill
from limbeck.models.gaussian_mixture import GaussianMixture
from limbeck.models.tiny_denoiser import mlp


def batch(n: int) -> Samples:
    return Samples(torch.randn(n, 2), torch.full((n,), -1), torch.arange(n))


def test_reverse_kl_is_dmd2() -> None:
    torch.manual_seed(0)
    teacher, student = mlp(16, 2), mlp(16, 2)
    one, other = FDistill(student, teacher, divergence="reverse_kl"), DMD2(student, teacher)
    one.critic = other.critic = mlp(16, 2)
    x, y = torch.randn(16, 2, requires_grad=True), torch.full((16,), -1)
    torch.manual_seed(1)
    (wanted,) = torch.autograd.grad(other.matching(x, y), x)
    torch.manual_seed(1)
    t = one.t_min + (one.t_max - one.t_min) * torch.rand(16)
    x_t = teacher.path.noised(x, torch.randn_like(x), t)
    h = one.weights(torch.randn(16), t)
    (found,) = torch.autograd.grad(one.matching(x, x_t, t, y, h).mean(), x)
    assert torch.allclose(found, wanted) and float(wanted.abs().max()) > 0


def test_forward_kl_weighs_what_the_generator_lacks_and_the_means_are_one() -> None:
    """Within one bin of time the weights are r / mean r; a bin of large ratios does not drown the others."""
    method = FDistill(mlp(16, 2), mlp(16, 2), divergence="forward_kl")
    t, r = torch.tensor([0.11, 0.12, 0.71, 0.72]), torch.tensor([1.0, 3.0, 5.0, 15.0])
    assert torch.allclose(method.weights(r.log(), t), torch.tensor([0.5, 1.5, 0.5, 1.5]))
    assert torch.allclose(method.means[[1, 7]], torch.tensor([2.0, 10.0])) and float(method.means[0]) == 1
    kept = FDistill(mlp(16, 2), mlp(16, 2), divergence="forward_kl", memory=0.5)
    kept.weights(r.log(), t)
    assert torch.allclose(kept.means[[1, 7]], torch.tensor([1.5, 5.5]))


def test_the_logit_becomes_the_log_ratio() -> None:
    """Generator N(0, 0.25), data N((1, 0), 0.25), both known: the head learns log q_t / p_t at the noised samples."""
    torch.manual_seed(0)
    p, q = (GaussianMixture(torch.tensor([[shift, 0.0]]), 0.5) for shift in (0.0, 1.0))
    method = FDistill(mlp(16, 2), mlp(64, 2))
    adam = torch.optim.Adam(method.head.parameters(), lr=1e-2)
    y = torch.full((256,), -1)
    softplus = torch.nn.functional.softplus
    for _ in range(150):
        fake, real = (method.logits(m.sample(256)[0], y) for m in (p, q))
        adam.zero_grad()
        (softplus(fake) + softplus(-real)).mean().backward()
        adam.step()
    x, t = p.sample(512)[0], torch.full((512,), 0.3)
    x_t = method.teacher.path.noised(x, torch.randn_like(x), t)
    with torch.no_grad():
        said = logits_of(method.head, method.teacher, x_t, t, torch.full((512,), -1))
    true = q.log_density(x_t, t) - p.log_density(x_t, t)
    assert float(torch.corrcoef(torch.stack([said, true]))[0, 1]) > 0.9


def test_the_gradient_of_the_gan_goes_through_the_frozen_teacher() -> None:
    torch.manual_seed(0)
    method = FDistill(mlp(16, 2), mlp(16, 2), ratio=2)
    told: list[list[str]] = []
    for k in range(4):
        updates = list(method.updates(batch(8), Clock(k, 4)))
        told.append([u.player for u in updates])
        if k == 0:
            found: list[Tensor | None] = list(
                torch.autograd.grad(updates[0].terms["gan"], list(method.student.parameters()), allow_unused=True)
            )
            assert any(g is not None and float(g.abs().max()) > 0 for g in found)
    assert told == [["student", "critic"], ["critic"]] * 2
    assert not any(p.requires_grad for p in method.teacher.parameters())
    with pytest.raises(Exception, match="divergence"):
        FDistill(mlp(16, 2), mlp(16, 2), divergence="kl")  # type: ignore[arg-type]
