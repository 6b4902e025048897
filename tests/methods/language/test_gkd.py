"""GKD (Agarwal et al., 2024): the family of divergences, whose answers are scored, and at which positions."""

import copy

import pytest
import torch

from limbeck import Clock
from limbeck.core.schedule import Linear
from limbeck.losses.divergence import generalised_jsd, kl
from limbeck.methods.language._shared import answers
from limbeck.methods.language.gkd import GKD
from tests.worlds import language_world

CLOCK = Clock(0, 1)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
def test_off_policy_it_is_the_mean_divergence_of_the_words_to_learn(beta: float) -> None:
    world = language_world()
    [teacher], student, batch = world.teachers, world.student(), world.batch(6)
    found = GKD(student, teacher, beta=beta, lmbda=0.0).loss(batch, CLOCK)["jsd"]
    p, q = (model(batch).log_probs()[batch.mask] for model in (teacher, student))
    wanted = {0.0: kl(p, q), 1.0: kl(q, p)}.get(beta, generalised_jsd(p, q, beta)).mean()
    assert float(found) == pytest.approx(float(wanted), rel=1e-4)


def test_on_policy_the_students_own_answers_are_scored() -> None:
    world = language_world()
    [teacher], student, batch = world.teachers, world.student(), world.batch(6)
    method = GKD(student, teacher, lmbda=1.0, beta=0.0, longest=4)
    torch.manual_seed(3)
    found = method.loss(batch, CLOCK)["jsd"]
    torch.manual_seed(3)
    torch.rand(())  # the draw that decides whose answers
    own = answers(student, batch, longest=4)
    p, q = (model(own).log_probs()[own.mask] for model in (teacher, student))
    assert float(found) == pytest.approx(float(kl(p, q).mean()), rel=1e-4)
    assert own.y[own.mask].tolist() != batch.y[batch.mask].tolist()


def test_an_answer_begins_after_its_prompt_and_ends_with_the_first_end_of_text() -> None:
    world = language_world()
    batch, teacher = world.batch(6), world.teachers[0]
    own = answers(teacher, batch, longest=8, tau=0.0)
    for row in range(6):
        prompt = batch.x[row, : int(batch.mask[row].int().argmax()) + 1]
        assert own.x[row, : len(prompt)].equal(prompt)
        learnt = own.y[row][own.mask[row]]
        assert learnt.equal(own.x[row, len(prompt) : len(prompt) + len(learnt)]), "y is x, one to the left"
        assert teacher.eos not in learnt[:-1].tolist()


def test_lmbda_may_be_a_schedule_and_nothing_is_left_at_equality() -> None:
    world = language_world()
    twin = copy.deepcopy(world.teachers[0]).requires_grad_(True)
    method = GKD(twin, world.teachers[0], lmbda=Linear(0, 1), longest=4).eval()
    for clock in (Clock(0, 2), Clock(1, 2)):
        term = method.loss(world.batch(6), clock)["jsd"]
        assert float(term.detach()) == pytest.approx(0, abs=1e-6)
        assert max(float(g.abs().max()) for g in torch.autograd.grad(term, list(twin.parameters()))) < 1e-5
