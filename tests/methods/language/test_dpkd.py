"""DPKD (Li et al., 2024): the reward of an answer, the sign of its gradient, and the released code's form."""

import copy
import math

import numpy as np
import pytest
import torch

from limbeck import Clock
from limbeck.errors import InputError
from limbeck.methods.language._shared import answers
from limbeck.methods.language.dpkd import DPKD
from tests.worlds import language_world

CLOCK = Clock(0, 1)


def test_sequences_are_compared_by_their_length_normalised_log_ratios() -> None:
    world = language_world()
    [teacher], student, batch = world.teachers, world.student(), world.batch(6)
    torch.manual_seed(3)
    found = DPKD(student, teacher, beta=0.7, k=0.25, longest=4).loss(batch, CLOCK)
    torch.manual_seed(3)
    pair = [answers(model, batch, longest=4) for model in (teacher, student)]
    rewards = []
    for answer in pair:
        q, p = (model(answer).log_probs().detach().numpy() for model in (student, teacher))
        rows = []
        for k in range(6):
            at = np.flatnonzero(answer.mask[k].numpy())
            words = answer.y[k, at].numpy()
            rows.append(0.7 * float(np.mean(q[k, at, words] - p[k, at, words])))
        rewards.append(np.array(rows))
    wanted = np.log1p(np.exp(-(rewards[0] - rewards[1]))).mean()
    assert float(found["dpkd"]) == pytest.approx(0.25 * wanted, rel=1e-4)
    said = student(pair[0]).log_probs().gather(-1, pair[0].y.clamp_min(0)[..., None])[..., 0][pair[0].mask]
    assert float(found["ce"]) == pytest.approx(-0.75 * float(said.mean()), rel=1e-4)


def test_a_step_raises_the_reward_of_the_preferred_answer_over_the_other() -> None:
    world = language_world()
    [teacher], student, batch = world.teachers, world.student(), world.batch(6)
    method = DPKD(student, teacher, k=1.0, preferred="data", longest=4)
    torch.manual_seed(3)
    lost = answers(student, batch, longest=4)

    def margin() -> float:
        return float((method.reward(batch)[0] - method.reward(lost)[0]).mean())

    before = margin()
    torch.manual_seed(3)
    method.loss(batch, CLOCK)["dpkd"].backward()
    with torch.no_grad():
        for p in student.parameters():
            p -= 0.5 * p.grad
    assert margin() > before


def test_word_by_word_only_disagreements_pull() -> None:
    world = language_world()
    [teacher], student, batch = world.teachers, world.student(), world.batch(6)
    found = DPKD(student, teacher, mode="token", beta=0.5, k=1.0).loss(batch, CLOCK)["dpkd"]
    q, p = (model(batch).log_probs()[batch.mask] for model in (student, teacher))
    total, rows = 0.0, torch.arange(len(q))
    w, lost = p.argmax(1), q.argmax(1)
    for n in rows.tolist():
        margin = (q[n, w[n]] - q[n, lost[n]]) - (p[n, w[n]] - p[n, lost[n]])
        total += math.log1p(math.exp(-0.5 * float(margin)))
    assert float(found) == pytest.approx(total / len(q), rel=1e-4)
    assert bool((w != lost).any())
    twin = copy.deepcopy(teacher).requires_grad_(True)
    same = DPKD(twin, teacher, mode="token", k=1.0).eval().loss(batch, CLOCK)["dpkd"]
    assert float(same) == pytest.approx(math.log(2), rel=1e-5)
    assert max(float(g.abs().max()) for g in torch.autograd.grad(same, list(twin.parameters()))) < 1e-6


def test_a_teacher_that_cannot_write_is_refused() -> None:
    world = language_world()
    with pytest.raises(InputError, match="preferred"):
        DPKD(world.student(), torch.nn.Identity())
