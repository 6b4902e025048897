"""TSD-KD (Kim & Baek, 2026): which order the ranking teaches, where it applies, what the gate does."""

import itertools

import pytest
import torch

from limbeck import Clock
from limbeck.losses.divergence import entropy, generalised_jsd
from limbeck.methods.language.tsd_kd import TSDKD, list_mle, opening, ranking
from tests.worlds import language_world


def test_the_ranking_is_the_plackett_luce_likelihood_and_the_right_order_is_the_likeliest() -> None:
    scores = torch.tensor([3.0, 1.5, 0.2, -1.0], dtype=torch.float64)
    slow = -sum(float(scores[k] - scores[k:].exp().sum().log()) for k in range(4))
    assert float(list_mle(scores)) == pytest.approx(slow)
    assert float(list_mle(scores)) < float(list_mle(scores.flip(0))), "the released code has it the other way round"
    orders = [list_mle(scores[list(order)]) for order in itertools.permutations(range(4))]
    assert float(torch.stack(orders).neg().exp().sum()) == pytest.approx(1), "a distribution over orders"


def test_candidates_are_the_students_and_their_order_the_teachers() -> None:
    p = torch.tensor([[0.0, 3.0, 1.0, 2.0]]).log_softmax(-1)
    z = torch.tensor([[5.0, 1.0, 2.0, -9.0]], requires_grad=True)
    found = ranking(p, z.log_softmax(-1), torch.tensor([[0, 1, 2]]))
    assert float(found.detach()) == pytest.approx(float(list_mle(torch.tensor([1.0, 2.0, 5.0]))), rel=1e-5)
    [slope] = torch.autograd.grad(found.sum(), z)
    assert slope[0, 1] < 0 < slope[0, 0], "the teacher's favourite rises, its least liked falls"
    assert abs(float(slope[0, 3])) < 1e-9, "a word that the student did not put forward"


def test_an_opening_is_the_shortest_beginning_that_holds_its_share() -> None:
    h = torch.tensor([[9.0, 1.0, 2.0, 3.0, 4.0], [9.0, 9.0, 5.0, 1.0, 1.0]])
    mask = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 1, 1, 0]]).bool()
    assert opening(h, mask, 0.3).tolist() == [[False, True, True, False, False], [False, False, True, False, False]]
    assert opening(h, mask, 0.31).tolist()[0] == [False, True, True, True, False]
    assert opening(h, mask, 1.0).equal(mask)


def test_the_terms_against_their_plain_forms() -> None:
    world = language_world()
    [teacher], student, batch = world.teachers, world.student(), world.batch(6)
    found = TSDKD(student, teacher, lmbda=0.0, quantile=0.5, c=0.4, candidates=5).loss(batch, Clock(0, 1))
    p, q = (model(batch).log_probs()[batch.mask].detach() for model in (teacher, student))
    gate = torch.sigmoid(entropy(q) - entropy(p))
    assert float(found["direct"].detach()) == pytest.approx(float((gate * generalised_jsd(p, q, 0.9)).mean()), rel=1e-4)
    high = entropy(q)[entropy(q) >= entropy(q).quantile(0.5)]
    assert float(found["entropy"].detach()) == pytest.approx(float(high.mean()), rel=1e-4)
    first = opening(entropy(student(batch).log_probs().detach()), batch.mask, 0.4)[batch.mask]
    assert 0 < int(first.sum()) < len(first)
    ranked = ranking(p, q, q.topk(5).indices)[first].mean()
    assert float(found["indirect"].detach()) == pytest.approx(0.1 * float(ranked), rel=1e-3)
    h = entropy(student(batch).log_probs()[batch.mask]).mean()
    slopes = [torch.autograd.grad(x, student.net.get_input_embeddings().weight)[0] for x in (found["entropy"], h)]
    assert float((slopes[0] * slopes[1]).sum()) > 0, "entropy is brought down, not up"
