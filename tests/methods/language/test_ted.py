"""The equations of TED."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from limbeck.core.method import Clock, Method, Setting
from limbeck.core.modules import Taps
from limbeck.methods.language._filters import Filters, FilterTraining
from limbeck.methods.language._shared import matched
from limbeck.methods.language.ted import TED
from tests.worlds import language_world


def test_filters_learn_the_task_through_heads_of_their_own_under_a_network_that_stays() -> None:
    world = language_world()
    student, batch = world.student().eval(), world.batch()
    method = FilterTraining(student, Filters(student, [0, 1], 32))
    with torch.no_grad():
        _, states = Taps(*student.blocks)(student, batch)
    slow = [
        F.cross_entropy(head(one(h))[batch.mask], batch.y[batch.mask])
        for one, head, h in zip(method.filters.maps, method.heads, states, strict=True)
    ]
    loss = method.loss(batch, Clock(0, 3))["filters"]
    assert float(loss) == pytest.approx(float(sum(slow)) / 2, rel=1e-5)
    loss.backward()
    assert all(p.grad is None for p in student.parameters())
    assert len(method.players()["student"]) == 6 and all(p.grad is not None for p in method.players()["student"])


def test_stage_2_is_ce_kl_and_the_mean_square_between_filtered_states() -> None:
    world = language_world()
    student, teacher, batch = world.student().eval(), world.teachers[0], world.batch()
    filters, goal = Filters(student, [0, 1], 32), Filters(teacher, [0, 2], 32)
    method = TED(student, teacher, filters, goal, soft=0.5, layer=3.0)
    terms = method.loss(batch, Clock(0, 3))
    with torch.no_grad():
        (words, ours), (t, theirs) = filters(student, batch), goal(teacher, batch)
        squares = [(s - h)[batch.mask].square().mean() for s, h in zip(ours, theirs, strict=True)]
        p, q = ((x.logits()[batch.mask] / 2).log_softmax(-1) for x in (t, words))
        hard = words.logits()[batch.mask].log_softmax(-1)
    assert float(terms["layer"]) == pytest.approx(3 * float(sum(squares)) / 2, rel=1e-4)
    kl, ce = F.kl_div(q, p, log_target=True, reduction="batchmean"), F.nll_loss(hard, batch.y[batch.mask])
    assert float(terms["kd"]) == pytest.approx(0.5 * 4 * float(kl), rel=1e-4)
    assert float(terms["ce"]) == pytest.approx(float(ce), rel=1e-4)
    sum(terms.values()).backward()
    assert all(p.grad is None for p in (*teacher.parameters(), *goal.parameters()))
    assert all(p.grad.abs().max() > 0 for p in filters.parameters())


def test_stages_share_the_steps_and_the_student_leaves_without_filters() -> None:
    world, seen = language_world(), []

    def run(method: Method, *, name: str = "fit", steps: int) -> None:
        terms = method.loss(world.batch(), Clock(0, steps))
        seen.append((name, steps, sorted(terms)))

    student = TED.distil(Setting(world.student, world.teachers, world.data, 10, run), {})
    assert seen == [
        ("tune", 3, ["ce"]), ("teacher-filters", 2, ["filters"]), ("student-filters", 2, ["filters"]),
        ("fit", 7, ["ce", "kd", "layer"]),
    ]  # fmt: skip
    assert student.state_dict().keys() == world.student().state_dict().keys()


def test_layers_meet_evenly_and_end_together() -> None:
    assert matched(6, 12) == [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11)]
    assert matched(2, 3) == [(0, 1), (1, 2)] and matched(3, 3) == [(0, 0), (1, 1), (2, 2)]
    assert matched(2, 5, "last") == [(0, 3), (1, 4)] and matched(3, 2) == [(1, 0), (2, 1)]
