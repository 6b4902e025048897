"""ULD: the distance against transport by a solver, what it cannot see, which words meet, a slow sum over rows."""

import pytest
import torch
from scipy.optimize import linprog

from limbeck.core.schedule import Clock
from limbeck.errors import InputError
from limbeck.methods.language.uld import ULD, paired, sorted_distance
from tests.worlds import language_world

NOW = Clock(0, 1)


def simplex(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(2).softmax(-1)


def test_distance_is_the_least_transport_over_all_matchings_of_words():
    """Twice the mass that must change its word under the best of all matchings (Wasserstein with a 0/1 cost)."""
    from itertools import permutations

    p, q = simplex(0, 4), simplex(1, 5)
    padded = torch.cat([p, p.new_zeros(1)]).numpy()
    costs = []
    for order in permutations(range(5)):
        cost = 1.0 - torch.eye(5)[list(order)].numpy()
        sums = [[float(k // 5 == i) for k in range(25)] for i in range(5)]
        sums += [[float(k % 5 == j) for k in range(25)] for j in range(5)]
        costs.append(linprog(cost.ravel(), A_eq=sums, b_eq=[*padded, *q.numpy()]).fun)
    assert float(sorted_distance(p[None], q[None])) == pytest.approx(2 * min(costs), abs=1e-9)


def test_order_of_words_is_invisible_and_the_ends_are_0_and_2():
    p, q = simplex(2, 6, 9), simplex(3, 6, 7)
    shuffled = sorted_distance(p[:, torch.randperm(9)], q[:, torch.randperm(7)])
    assert torch.allclose(sorted_distance(p, q), shuffled) and torch.allclose(
        sorted_distance(p, q), sorted_distance(q, p)
    )
    assert sorted_distance(p, torch.cat([p.new_zeros(6, 3), p], 1)).abs().max() < 1e-12, "padding words do not count"
    one = torch.eye(1, 40, dtype=torch.float64)
    assert float(sorted_distance(one, torch.full((1, 40), 1 / 40))) == pytest.approx(2 - 2 / 40)


def test_loss_is_a_slow_sum_over_rows_and_words_by_index():
    world = language_world(0, crossed=True)
    student, batch = world.student(1).eval(), world.batch(6)
    y = batch.view.y.clone()
    y[0] = torch.where(batch.view.mask[0].cumsum(0) == 1, y[0], -100)  # a row in which the teacher has one word
    batch = batch._replace(view=batch.view._replace(y=y))
    for skip in (False, True):
        terms = ULD(student, world.teachers[0], weight=1.5, tau=1.3, teacher_tau=0.8, skip_eos=skip).loss(batch, NOW)
        q, p = student(batch).log_probs(1.3).exp().detach(), world.teachers[0](batch.view).log_probs(0.8).exp()
        total = 0.0
        for row in range(6):
            ours, theirs = (x.mask[row].nonzero()[:, 0].tolist() for x in (batch, batch.view))
            ours, theirs = (ours[:-1], theirs[:-1]) if skip else (ours, theirs)
            pairs = list(zip(ours, theirs))
            for i, j in pairs:
                a, b = q[row, i].sort(descending=True).values, p[row, j].sort(descending=True).values
                n = max(len(a), len(b))
                a, b = (torch.cat([x, x.new_zeros(n - len(x))]) for x in (a, b))
                total += float((a - b).abs().sum()) / len(pairs) / 6
        assert float(terms["uld"].detach()) == pytest.approx(1.5 * total, rel=1e-4)
        ours, theirs, weight = paired(batch.mask, batch.view.mask)
        assert torch.equal(ours.sum(1), theirs.sum(1)) and float(weight.sum()) == pytest.approx(1)


def test_gradient_sharpens_a_student_less_sure_than_its_teacher():
    z = torch.zeros(1, 8, dtype=torch.float64)
    z[0, 3], teacher = 0.5, torch.tensor([[0.9, 0.1]], dtype=torch.float64)
    z.requires_grad_()
    sorted_distance(teacher, z.softmax(-1)).sum().backward()
    assert z.grad[0, 3] < 0 and (z.grad[0, [0, 1, 2, 4, 5, 6, 7]] >= 0).float().mean() >= 6 / 7


def test_packed_rows_are_refused():
    world = language_world(0, crossed=True)
    batch = world.batch(4)
    with pytest.raises(InputError, match="pack"):
        ULD(world.student(1), world.teachers[0]).loss(batch._replace(segment=batch.segment * 2), NOW)
