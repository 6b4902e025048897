"""Born-again networks: the two diagnostics and the loss without a predecessor."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from limbeck.core.method import Clock
from limbeck.data.batches import Images
from limbeck.methods.self_distillation.ban import BAN, confidence_weighted
from tests.worlds import vision_world

CLOCK = Clock(0, 10)


def outputs(rows: int = 12, K: int = 5) -> tuple[Images, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return Images(torch.zeros(rows, 1), torch.arange(rows) % K, torch.arange(rows)), *torch.randn(2, rows, K).unbind()


class Fixed(nn.Module):
    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits


def test_ban_gradient_is_student_minus_teacher() -> None:
    batch, s, t = outputs()
    method = BAN(Fixed(s), Fixed(t))
    sum(method.loss(batch, CLOCK).values()).backward()
    assert torch.allclose(method.student.logits.grad, (s.softmax(1) - t.softmax(1)) / len(s), atol=1e-6)


def test_cwtm_weights_sum_to_one_and_equal_confidence_is_plain_cross_entropy() -> None:
    batch, s, t = outputs()
    most = t.softmax(1).amax(1)
    reference = sum((most[i] / most.sum()) * -s[i].log_softmax(0)[batch.y[i]] for i in range(len(s)))
    assert torch.allclose(confidence_weighted(s, t, batch.y).sum(), reference, atol=1e-6)
    flat = torch.zeros_like(t)
    assert torch.allclose(confidence_weighted(s, flat, batch.y).sum(), F.cross_entropy(s, batch.y), atol=1e-6)


def test_dkpp_keeps_the_teachers_choice_and_loses_its_dark_knowledge() -> None:
    batch, s, t = outputs(400, 5)
    method = BAN(Fixed(s), Fixed(t), target="dkpp")
    torch.manual_seed(1)
    sum(method.loss(batch, CLOCK).values()).backward()
    pulled = s.softmax(1) - method.student.logits.grad * len(s)  # the target that the gradient reveals
    p, top = t.softmax(1), t.argmax(1)
    rows = torch.arange(len(s))
    assert torch.allclose(pulled[rows, top], p[rows, top], atol=1e-5)
    assert torch.allclose(pulled.sort(1).values, p.sort(1).values, atol=1e-5)
    assert not torch.allclose(pulled, p, atol=1e-3)


def test_generations_restart_from_fresh_students_and_a_given_teacher_is_generation_zero() -> None:
    world = vision_world(0)
    fitted: list[BAN] = []
    setting = world.setting(steps=1)
    spy = type(setting)(setting.student, (), setting.data, 1, lambda method, **_: fitted.append(method))
    BAN.distil(spy, {"generations": 2})
    assert [m.teacher is None for m in fitted] == [True, False, False]
    first = next(fitted[0].student.parameters())
    assert not torch.equal(first, next(fitted[1].student.parameters())), "a warm start is continued training"
    assert torch.equal(first, next(fitted[1].teacher.parameters()))  # spy trains nothing: teacher is generation 0
    fitted.clear()
    BAN.distil(type(setting)(setting.student, world.teachers, setting.data, 1, spy.fit), {"generations": 2})
    assert [m.teacher is None for m in fitted] == [False, False]
