"""Score gaps: the sign leads to the data, the gradient is what is written, and equality is a fixed point."""

import torch

from limbeck.losses.kernel import energy_distance, gaussian, mmd2
from limbeck.losses.score import along, distance, fisher, follow, pseudo_huber
from limbeck.models.gaussian_mixture import GaussianMixture, exact


def at(mean: float):
    return exact(GaussianMixture(torch.tensor([[mean, 0.0]]), 0.5))


def test_both_gaps_lead_a_gaussian_towards_the_teachers() -> None:
    """Two Gaussians with exact scores: the student at -1, the teacher at +1; the step must go right."""
    torch.manual_seed(0)
    teacher, critic = at(1.0), at(-1.0)
    x = (torch.tensor([[-1.0, 0.0]]) + 0.5 * torch.randn(256, 2)).requires_grad_()
    t = 0.1 + 0.8 * torch.rand(256)
    x_t = teacher.path.noised(x, torch.randn(256, 2), t)
    real, fake = teacher(x_t, t).x0, critic(x_t, t).x0
    detached = follow(x, (fake - real).detach() / distance(x, real)).mean()
    through = fisher(x, real, fake).mean()
    for loss in (detached, through):
        (slope,) = torch.autograd.grad(loss, x, retain_graph=True)
        assert float(slope[:, 0].mean()) < 0  # descent moves it right


def test_nothing_moves_where_critic_and_teacher_agree() -> None:
    model, x = at(0.3), torch.randn(64, 2, requires_grad=True)
    said = model(x, 0.5).x0
    for loss in (follow(x, said - said).sum(), fisher(x, said, said, alpha=1.2).sum()):
        (slope,) = torch.autograd.grad(loss, x, retain_graph=True)
        assert float(slope.abs().max()) == 0


def test_the_surrogates_gradients() -> None:
    x, gap = torch.randn(4, 3, 2, requires_grad=True), torch.randn(4, 3, 2)
    (slope,) = torch.autograd.grad(follow(x, gap).sum(), x)
    torch.testing.assert_close(slope, gap / 6)
    (slope,) = torch.autograd.grad(along(gap.requires_grad_(), 2 * x).sum(), x)
    torch.testing.assert_close(slope, 2 * gap)
    hole = gap.detach().clone()
    hole[0, 0, 0] = float("nan")
    (slope,) = torch.autograd.grad(follow(x, hole).sum(), x)
    assert float(slope[0, 0, 0]) == 0 and torch.isfinite(slope).all()


def test_fisher_at_one_is_score_implicit_matching() -> None:
    x, real, fake = torch.randn(3, 5, 4, dtype=torch.float64).unbind()
    torch.testing.assert_close(fisher(x, real, fake, 1.0), ((real - fake) * (fake - x)).sum(1))
    torch.testing.assert_close(fisher(x, real, fake, 0.0), ((real - fake) * (real - x)).sum(1))


def test_pseudo_huber_is_squared_near_and_absolute_far() -> None:
    zero = torch.zeros(1, 1)
    near, far = pseudo_huber(torch.tensor([[1e-3]]), zero, 1.0), pseudo_huber(torch.tensor([[1e3]]), zero, 1.0)
    torch.testing.assert_close(near, torch.tensor([0.5e-6]), rtol=0.2, atol=0)
    torch.testing.assert_close(far, torch.tensor([999.0]), rtol=1e-3, atol=0)


def test_distances_of_sets_are_zero_on_average_for_equal_laws_and_not_for_others() -> None:
    drawn = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 800, 2, generator=drawn).unbind()
    for apart in (energy_distance, lambda p, q: mmd2(gaussian(p, p), gaussian(q, q), gaussian(p, q))):
        assert abs(float(apart(a, b))) < 0.01 < 0.05 < float(apart(a, b + 1))
    assert float(mmd2(gaussian(a, a), gaussian(a, a), gaussian(a, a), unbiased=False)) == 0
