"""PS-KD: the gradient, the table and the ramp."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from limbeck.core.method import Clock
from limbeck.core.schedule import Linear
from limbeck.methods.self_distillation.ps_kd import PSKD
from tests.worlds import vision_world


def made(alpha: object = 0.6) -> tuple[PSKD, object]:
    world = vision_world(0)
    return PSKD(world.student(), examples=len(world.train), alpha=alpha).eval(), world.batch(8)


def test_first_sight_is_plain_cross_entropy_and_the_second_blends_in_the_first_prediction() -> None:
    method, batch = made()
    z = method.student(batch.x)
    assert torch.allclose(method.loss(batch, Clock(0, 10))["ps_kd"], F.cross_entropy(z, batch.y), atol=1e-6)
    with torch.no_grad():
        for p in method.student.parameters():
            p.add_(0.1)
    now = method.student(batch.x)
    target = 0.4 * F.one_hot(batch.y, z.shape[1]) + 0.6 * z.softmax(1)
    expected = -(target * now.log_softmax(1)).sum(1).mean()
    assert torch.allclose(method.loss(batch, Clock(5, 10))["ps_kd"], expected.detach(), atol=1e-6)


def test_only_the_rows_seen_are_written_whatever_their_order() -> None:
    method, batch = made()
    order = torch.randperm(8)
    shuffled = batch._replace(x=batch.x[order], y=batch.y[order], index=batch.index[order])
    method.loss(shuffled, Clock(0, 10))
    assert torch.allclose(method.table[:8], method.student(batch.x).softmax(1), atol=1e-6)
    assert method.table[8:].abs().sum() == 0


def test_alpha_reaches_the_papers_value_at_the_last_step() -> None:
    assert PSKD.alpha == Linear(0.0, 0.8)
    assert PSKD.alpha(Clock(0, 300)) == 0.0 and PSKD.alpha(Clock(299, 300)) == 0.8


def test_no_gradient_through_the_target() -> None:
    method, batch = made(alpha=1.0)
    method.loss(batch, Clock(0, 10))  # fills the table
    loss = method.loss(batch, Clock(1, 10))["ps_kd"]
    slopes = torch.autograd.grad(loss, list(method.student.parameters()))
    assert max(float(g.abs().max()) for g in slopes) < 1e-5, "target = own prediction: stationary"
