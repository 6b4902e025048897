"""The equations of SquareHead."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.core.fit import fit
from limbeck.core.method import Clock, Setting
from limbeck.core.modules import Taps
from limbeck.methods.language.squarehead import SquareHead, square_head
from limbeck.models.surgery import sparsify, sparsity, truncate
from tests.worlds import SGD, language_world


def test_it_is_the_relative_squared_error_of_each_block_over_the_words_to_learn() -> None:
    world = language_world()
    teacher, batch = world.teachers[0], world.batch()
    student = truncate(teacher, range(teacher.depth))
    masks = sparsify(student, 0.5)
    found = SquareHead(student, teacher, masks, feat=3.0, task=0.5).eval().terms(batch)
    with torch.no_grad():
        (words, ours), (_, theirs) = (Taps(*m.blocks)(m, batch) for m in (student, teacher))
    learnt, slow = batch.mask.numpy(), []
    for s, t in zip(ours, theirs, strict=True):
        s, t = (x.double().numpy()[learnt] for x in (s, t))
        slow.append(np.sum((s - t) ** 2) / np.sum(t**2))
    assert float(found["feat"]) == pytest.approx(3 * np.mean(slow), rel=1e-4)
    hard = torch.nn.functional.cross_entropy(words.logits()[batch.mask], batch.y[batch.mask])
    assert float(found["ce"]) == pytest.approx(0.5 * float(hard), rel=1e-4) and "kd" not in found


def test_layers_weigh_alike_whatever_their_size_and_the_teacher_is_the_measure() -> None:
    s, t = torch.randn(6, 5), torch.randn(6, 5)
    assert float(square_head(100 * s, 100 * t)) == pytest.approx(float(square_head(s, t)), rel=1e-5)
    assert float(square_head(torch.zeros_like(t), t)) == pytest.approx(1.0)
    assert float(square_head(2 * t, t)) == pytest.approx(1.0)  # by the student's energy it would be a quarter
    assert square_head(t, t) == 0


def test_zeros_stay_zero_under_momentum_and_come_in_levels() -> None:
    world, seen = language_world(), []

    def run(method: SquareHead, *, name: str, steps: int) -> None:
        before = sparsity(method.student)
        fit(method, world.data, SGD, steps=steps)
        seen.append((name, steps, round(before, 2), round(sparsity(method.student), 2)))

    setting = Setting(world.student, world.teachers, world.data, 7, run)
    student = SquareHead.distil(setting, {"levels": 2, "logit": 1.0})
    assert seen == [("level-1", 3, 0.5, 0.5), ("level-2", 4, 0.75, 0.75)]
    dense = world.teachers[0].get_submodule("net.model.layers.0.mlp.up_proj").weight
    mine = student.get_submodule("net.model.layers.0.mlp.up_proj").weight
    kept = mine != 0
    assert not torch.equal(mine[kept], dense[kept]), "what is left learns"


def test_nothing_is_left_to_learn_when_nothing_was_pruned() -> None:
    world = language_world()
    teacher = world.teachers[0]
    method = SquareHead(truncate(teacher, range(teacher.depth)), teacher, task=0.0, logit=1.0).eval()
    terms = method.terms(world.batch())
    assert abs(float(terms["feat"])) < 1e-9 and abs(float(terms["kd"])) < 1e-6
    assert Clock(0, 1).fraction == 0 and next(method.updates(world.batch(), Clock(0, 1))).terms.keys() == terms.keys()
