"""The equations of teacher-free truncation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from limbeck.core.method import Clock, Setting
from limbeck.errors import InputError
from limbeck.methods.language.teacher_free_truncation import TeacherFreeTruncation, chosen
from limbeck.models.surgery import truncate
from tests.worlds import language_world


def cut(values: dict[str, Any], teachers: int = 1) -> TeacherFreeTruncation:
    """The method as ``distil`` builds it."""
    world, seen = language_world(), []
    setting = Setting(world.student, world.teachers[:teachers], world.data, 3, lambda method, **_: seen.append(method))
    TeacherFreeTruncation.distil(setting, values)
    return seen[0]


def test_the_student_is_the_teachers_own_first_and_last_block_and_nobody_is_asked() -> None:
    teacher, method = language_world().teachers[0], cut({})
    assert method.teacher is None  # it need not fit beside the student
    kept = truncate(teacher, [0, 2]).state_dict()
    assert all(torch.equal(v, kept[k]) for k, v in method.student.state_dict().items())
    assert all(p.requires_grad for p in method.student.parameters())
    batch = language_world().batch()
    with torch.no_grad():
        q = method.student(batch).logits().double().log_softmax(-1).numpy()
    y = batch.y.numpy()
    slow = -np.mean([q[b, t, y[b, t]] for b, t in zip(*np.nonzero(y != -100), strict=True)])
    assert method.loss(batch, Clock(0, 3))["ce"].item() == pytest.approx(slow, rel=1e-5)


def test_the_arm_with_a_teacher_is_forward_kl_times_tau_squared() -> None:
    method, batch = cut({"alpha": 0.3, "tau": 2.0, "depth": 1}), language_world().batch()
    terms = method.loss(batch, Clock(0, 3))
    with torch.no_grad():
        p, q = (
            (m(batch).logits().double() / 2).log_softmax(-1) for m in (language_world().teachers[0], method.student)
        )
        hard = method.student(batch).logits().double().log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1)[batch.mask].mean()
    assert float(terms["kd"]) == pytest.approx(0.3 * 4 * float(kl), rel=1e-4)
    ce = -hard[batch.mask].gather(-1, batch.y[batch.mask][:, None]).mean()
    assert float(terms["ce"]) == pytest.approx(0.7 * float(ce), rel=1e-4)


def test_which_blocks() -> None:
    found = {which: chosen(8, 3, which) for which in ("spaced", "first", "last", "middle", "ends")}
    assert found == {
        "spaced": [0, 4, 7], "first": [0, 1, 2], "last": [5, 6, 7], "middle": [2, 3, 4], "ends": [0, 1, 7],
    }  # fmt: skip
    with pytest.raises(InputError, match="teacher"):
        cut({}, teachers=0)
    with pytest.raises(InputError, match="to 3"):
        cut({"depth": 4})
