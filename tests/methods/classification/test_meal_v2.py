"""MEAL V2 (Shen & Savvides, 2020): mean of probabilities, no labels after the warm start, a true adversary."""

import pytest
import torch
from torch import nn

from limbeck import Clock
from limbeck.methods.classification.meal_v2 import MEALV2
from tests.worlds import vision_world

CLOCK = Clock(0, 1)


def _method(**values: float) -> tuple[MEALV2, object]:
    world = vision_world(teachers=2)
    batch = world.batch()._replace(y=torch.full((8,), -1))  # labels are not read
    return MEALV2(world.student(), nn.ModuleList(world.teachers), **values).eval(), batch


def test_the_soft_term_is_the_cross_entropy_to_the_mean_probability() -> None:
    method, batch = _method()
    soft = next(method.updates(batch, CLOCK)).terms["soft"]
    log_q = method.student(batch.x).log_softmax(1)
    one, two = (teacher(batch.x) for teacher in method.teachers)
    mean = (one.softmax(1) + two.softmax(1)) / 2
    assert float(soft) == pytest.approx(float(-(mean * log_q).sum(1).mean()), rel=1e-5)
    of_logits = ((one + two) / 2).softmax(1)
    assert abs(float(soft) + float((of_logits * log_q).sum(1).mean())) > 1e-4


def test_the_players_pull_the_discriminator_apart_and_the_student_together() -> None:
    method, batch = _method()
    student, discriminator = method.updates(batch, CLOCK)
    assert (student.player, discriminator.player) == ("student", "discriminator")

    def verdict() -> float:
        return float(method.discriminator(method.student(batch.x).softmax(1)).mean())

    before, teachers = verdict(), [t(batch.x).softmax(1) for t in method.teachers]
    parameters = list(method.student.parameters())
    gradients = torch.autograd.grad(student.terms["adversarial"], parameters)
    with torch.no_grad():
        for p, g in zip(parameters, gradients, strict=True):
            p -= 1e-2 * g
        assert verdict() > before  # the student looks more like the teachers
        for p, g in zip(parameters, gradients, strict=True):
            p += 1e-2 * g
    judges = list(method.discriminator.parameters())
    assert all(
        g is None for g in torch.autograd.grad(discriminator.loss, parameters, retain_graph=True, allow_unused=True)
    )
    gradients = torch.autograd.grad(discriminator.loss, judges)

    def gap() -> float:
        return float(method.discriminator(sum(teachers) / 2).mean()) - verdict()

    wide = gap()
    with torch.no_grad():
        for p, g in zip(judges, gradients, strict=True):
            p -= 1e-2 * g
    assert gap() > wide


def test_without_an_adversary_one_update_remains() -> None:
    method, batch = _method(adversarial=0.0)
    assert [set(u.terms) for u in method.updates(batch, CLOCK)] == [{"soft"}]


@pytest.mark.parametrize(("warm", "stages"), [(0.5, [("warm-start", 4), ("fit", 4)]), (0.0, [("fit", 8)])])
def test_the_warm_start_counts(warm: float, stages: list[tuple[str, int]]) -> None:
    world, found = vision_world(teachers=2), []
    setting = world.setting(steps=8)

    def fit(method: nn.Module, *, name: str = "fit", steps: int = 8) -> None:
        found.append((name, steps))
        assert isinstance(method, MEALV2) == (name == "fit")

    student = MEALV2.distil(type(setting)(setting.student, setting.teachers, setting.data, 8, fit), {"warm": warm})
    assert found == stages
    assert student.num_classes == 6
