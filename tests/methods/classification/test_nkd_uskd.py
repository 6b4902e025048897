"""NKD and USKD (Yang et al., 2023): the weighted terms, and which networks they need."""

import pytest
import torch

from limbeck import Clock
from limbeck.errors import InputError
from limbeck.losses.decoupled import nkd, uskd
from limbeck.methods.classification.nkd_uskd import NKD_USKD
from tests.worlds import vision_world

CLOCK = Clock(0, 1)


def test_the_terms_are_the_weighted_means_of_the_two_parts() -> None:
    world = vision_world()
    student, teacher, batch = world.student().eval(), world.teachers[0], world.batch()
    terms = NKD_USKD(student, teacher, gamma=3.5, tau=2.0).loss(batch, CLOCK)
    target, others = nkd(student(batch.x), teacher(batch.x), batch.y, 2.0)
    assert terms["target"].item() == pytest.approx(target.mean().item(), rel=1e-5)
    assert terms["others"].item() == pytest.approx(3.5 * others.mean().item(), rel=1e-5)
    method = NKD_USKD(student, variant="uskd", alpha=0.5, beta=0.2).eval()
    terms = method.loss(batch, CLOCK)
    with torch.no_grad():
        s, [feature] = method.tap(student, batch.x)
        target, ranks = uskd(s, method.weak(feature.mean((2, 3))), batch.y)
    assert terms["own_target"].item() == pytest.approx(0.5 * target.mean().item(), rel=1e-5)
    assert terms["own_ranks"].item() == pytest.approx(0.2 * ranks.mean().item(), rel=1e-5)


def test_uskd_needs_no_teacher_and_its_weak_head_teaches_the_student() -> None:
    world = vision_world()
    with pytest.raises(InputError, match="teacher"):
        NKD_USKD(world.student())
    method = NKD_USKD(world.student(), variant="uskd")
    assert method.weak.in_features == 6  # the last stage but one, averaged
    terms = method.loss(world.batch(), CLOCK)
    assert set(terms) == {"ce", "own_target", "own_ranks", "weak"}
    terms["weak"].backward()
    assert next(method.student.parameters()).grad.abs().sum() > 0
    given = NKD_USKD(method.student, world.teachers[0], variant="uskd")
    assert set(given.loss(world.batch(), CLOCK)) == set(terms)
