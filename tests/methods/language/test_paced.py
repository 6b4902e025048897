"""PACED (Xu et al., 2026): the kernel of the pass rate, whose rate is taken when, the two directions."""

import pytest
import torch

from limbeck import Clock
from limbeck.data.tokens import Tokens
from limbeck.losses.divergence import kl
from limbeck.methods.language.paced import PACED, competence
from tests.worlds import language_world


class Graded:
    """A verifier that passes a row's answers so often, and remembers whom it was asked about."""

    def __init__(self, passes: dict[int, int]) -> None:
        self.passes, self.asked = passes, list[int]()

    def __call__(self, said: Tokens, batch: Tokens) -> torch.Tensor:
        rows = batch.index.tolist()
        self.asked += rows
        return torch.tensor([float(rows[:k].count(row) < self.passes[row]) for k, row in enumerate(rows)])


def test_the_kernel_vanishes_at_both_ends_and_peaks_where_its_powers_say() -> None:
    rate = torch.linspace(0, 1, 9)
    torch.testing.assert_close(competence(rate, 1, 1), rate * (1 - rate))
    for a, b in ((0.5, 2.0), (0.0, 0.0), (2.0, 1.0)):
        found = competence(rate, a, b)
        assert found[0] == found[-1] == 0 and bool((found[1:-1] > 0).all())
    assert int(competence(torch.linspace(0, 1, 301), 2, 1).argmax()) == 200


@pytest.mark.parametrize("forward", [True, False])
def test_each_row_counts_by_its_pass_rate(forward: bool) -> None:
    world = language_world()
    [teacher], student, batch = world.teachers, world.student(), world.batch(4)
    rows = batch.index.tolist()
    graded = Graded(dict(zip(rows, (0, 1, 2, 4), strict=True)))
    method = PACED(student, teacher, graded, examples=len(world.train), rollouts=4, longest=3, switch=float(forward))
    torch.manual_seed(1)
    found = method.loss(batch, Clock(0, 4))["kl"]
    if not forward:
        torch.manual_seed(1)
        from limbeck.methods.language._shared import answers, repeated

        answers(student, repeated(batch, 4), longest=3)
        batch = answers(student, batch, longest=3)
    p, q = (model(batch).log_probs().detach() for model in (teacher, student))
    value = kl(p, q) if forward else kl(q, p)
    row = (value * batch.mask).sum(1) / batch.mask.sum(1)
    w = torch.tensor([0, 3 / 16, 4 / 16, 0]) / (7 / 64)  # p (1 - p) over its mean
    assert float(found.detach()) == pytest.approx(float((w * row).mean()), rel=1e-3)


def test_rates_are_taken_once_a_period_and_known_rows_are_not_asked_again() -> None:
    world = language_world()
    few, more = world.batch(3), world.batch(5)
    graded = Graded(dict.fromkeys(more.index.tolist(), 2))
    method = PACED(
        world.student(), world.teachers[0], graded, examples=len(world.train), rollouts=4, longest=2, refresh=0.5
    )
    for batch, step, asked in ((few, 0, 3), (few, 1, 0), (more, 4, 2), (more, 5, 5), (few, 9, 0)):
        before = len(graded.asked)
        method.weights(batch, Clock(step, 10))
        assert len(graded.asked) - before == 4 * asked
    copied = PACED(world.student(), world.teachers[0], graded, examples=len(world.train))
    copied.load_state_dict(method.state_dict())
    assert copied.rates.equal(method.rates) and copied.period.equal(method.period), "a killed run knows what it knew"


def test_where_nothing_is_open_all_count_alike() -> None:
    world = language_world()
    batch = world.batch(3)
    graded = Graded(dict(zip(batch.index.tolist(), (0, 0, 2), strict=True)))
    method = PACED(world.student(), world.teachers[0], graded, examples=len(world.train), rollouts=2, longest=2)
    assert method.weights(batch, Clock(0, 1)).tolist() == [1, 1, 1]
