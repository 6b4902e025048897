"""The equations of norm and direction (KD++)."""

import pytest
import torch
from torch.nn import functional as F

from limbeck.core.method import Clock
from limbeck.core.modules import Taps
from limbeck.errors import InputError
from limbeck.losses.feature import norm_direction
from limbeck.methods.classification._shared import class_means
from limbeck.methods.classification.nd_loss import NDLoss
from tests.worlds import vision_world


def test_a_short_feature_is_pulled_by_minus_the_class_direction_over_the_teachers_norm() -> None:
    torch.manual_seed(0)
    s, t, mean = (torch.randn(5, 7, dtype=torch.float64) for _ in range(3))
    s = (0.3 * F.normalize(s) * t.norm(dim=1, keepdim=True)).requires_grad_()
    (short,) = torch.autograd.grad(norm_direction(s, t, mean).sum(), s)
    assert torch.allclose(short, -F.normalize(mean) / t.norm(dim=1, keepdim=True))
    long = (10 * s).detach().requires_grad_()
    (turned,) = torch.autograd.grad(norm_direction(long, t, mean).sum(), long)
    assert (turned * long).sum(1).abs().max() < 1e-12  # a cosine: only turns


def test_class_means_equal_the_loop_and_leave_the_teacher_as_it_was() -> None:
    world = vision_world()
    teacher = world.teachers[0]
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    means = class_means(teacher.train(), world.data.plain(7))
    assert teacher.training and all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    x, y = world.train.take(torch.arange(len(world.train)))
    with torch.no_grad():
        _, [feature] = Taps(teacher.head + ":in")(teacher.eval(), x)
    for c in range(len(means)):
        assert torch.allclose(means[c], feature[y == c].mean(0), atol=1e-5)
    few = class_means(teacher, [world.batch(1)])
    assert few.count_nonzero(1).bool().sum() == 1  # classes without samples stay at zero


def test_the_loss_is_the_papers_loop_over_samples() -> None:
    world = vision_world()
    student, teacher, batch = world.student(), world.teachers[0], world.batch()
    method = NDLoss(student, teacher, class_means(teacher, world.data.plain()), nd=2.0).eval()
    terms = method.loss(batch, Clock(0, 1))
    with torch.no_grad():
        _, [f_s] = method.student_tap(student, batch.x)
        _, [f_t] = method.teacher_tap(teacher, batch.x)
        total = 0.0
        for s, t, c in zip(method.adapter(f_s), f_t, batch.y.tolist(), strict=True):
            e = method.means[c] / method.means[c].norm()
            total += float(1 - s @ e / max(s.norm(), t.norm()))
    assert terms["nd"].item() == pytest.approx(2.0 * total / len(batch.y), rel=1e-5)
    with pytest.raises(InputError, match="means"):
        NDLoss(student, teacher, torch.zeros(3, 4))


def test_the_soft_term_warms_up() -> None:
    world = vision_world()
    method = NDLoss(world.student(), world.teachers[0], torch.randn(6, 20)).eval()
    first, last = (method.loss(world.batch(), Clock(step, 120))["kd"].item() for step in (0, 60))
    assert last == pytest.approx(10 * first, rel=1e-5)
