"""DP-OPD: without noise and clipping it is the mean of the records' divergences; who answers; the budget's end."""

import pytest
import torch

from limbeck.core.privacy import Mechanism
from limbeck.core.schedule import Clock
from limbeck.errors import InputError
from limbeck.losses.divergence import generalised_jsd
from limbeck.methods.language.dp_opd import DPOPD
from tests.worlds import language_world

NOW = Clock(0, 1)


def gradients(method, batch):
    update = next(method.updates(batch, NOW))
    moved = list(method.student.parameters())
    return update, torch.autograd.grad(update.loss, moved)


def test_plain_limit_is_the_mean_over_records_of_means_over_words():
    world = language_world(0)
    student, teacher, batch = world.student(1).eval(), world.teachers[0], world.batch(6)
    y = batch.y.clone()
    y[0] = torch.where(batch.mask[0].cumsum(0) == 1, y[0], -100)  # one word to learn: its record counts as much
    batch = batch._replace(y=y)
    method = DPOPD(student, teacher, Mechanism(60, 6, 0.0, 0.1), norm=1e9, lmbda=0.0, beta=0.3, tau=1.4)
    update, found = gradients(method, batch)
    p, q = teacher(batch).log_probs(1.4), student(batch).log_probs(1.4)
    values = generalised_jsd(p, q, 0.3).masked_fill(~batch.mask, 0).sum(1) / batch.mask.sum(1)
    wanted = torch.autograd.grad(values.mean(), list(student.parameters()))
    assert float(update.loss.detach()) == pytest.approx(float(values.mean().detach()), rel=1e-4)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted))
    assert len(found) == len(set(student.parameters())), "tied embeddings are one"


def test_a_record_pulls_with_at_most_the_norm_and_noise_is_on_every_parameter():
    world = language_world(0)
    student, teacher, batch = world.student(1).eval(), world.teachers[0], world.batch(5)
    quiet = DPOPD(student, teacher, Mechanism(50, 5, 0.0, 0.1), norm=1e-3, lmbda=0.0)
    update, found = gradients(quiet, batch)
    assert float(torch.stack([g.norm() for g in found]).norm()) <= 1e-3 * (1 + 1e-4)
    assert float(update.logs["clipped"]) == 1 and float(update.logs["epsilon"]) == float("inf")
    loud = DPOPD(student, teacher, Mechanism(50, 5, 40.0, 0.1), epsilon=1e3, norm=1.0, lmbda=0.0)
    torch.manual_seed(0)
    for g in gradients(loud, batch)[1]:
        assert float(g.std()) == pytest.approx(40 / 5, rel=0.5)
    none = type(batch)(*(part[:0] for part in batch[:5]))
    update, found = gradients(loud, none)
    assert float(update.loss.detach()) == 0 and all(float(g.abs().max()) > 0 for g in found)


def test_the_student_answers_as_often_as_it_should_and_its_words_are_judged():
    world = language_world(0)
    student, seen = world.student(1).eval(), []

    class Watched(type(world.teachers[0])):
        def forward(self, batch, prefix=None):
            seen.append(batch)
            return super().forward(batch, prefix)

    teacher = world.teachers[0]
    teacher.__class__ = Watched
    batch = world.batch(16)
    for lmbda, own in ((0.0, 0), (1.0, 16), (0.5, None)):
        seen.clear()
        method = DPOPD(student, teacher, Mechanism(50, 16, 0.0, 0.1), lmbda=lmbda, longest=4)
        torch.manual_seed(3)
        assert len(list(method.losses(batch, NOW))) == 16
        answered = sum(len(b.x) for b in seen if (b.index < 0).all())
        assert answered == own or (own is None and 2 <= answered <= 14)
        assert sum(len(b.x) for b in seen) == 16


def test_training_ends_with_the_budget():
    pytest.importorskip("opacus")
    world = language_world(0)
    made = Mechanism.within(2.0, 1e-2, records=144, batch=8, steps=3)
    method = DPOPD(world.student(1), world.teachers[0], made, epsilon=2.0, lmbda=0.0)
    spent = [float(next(method.updates(world.batch(8), NOW)).logs["epsilon"]) for _ in range(3)]
    assert spent == sorted(spent) and spent[-1] <= 2.0 and int(method.spent) == 3
    with pytest.raises(InputError, match="spent after"):
        for _ in range(3):
            next(method.updates(world.batch(8), NOW))
