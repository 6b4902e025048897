"""The equations of OFA-KD."""

import pytest
import torch

from limbeck.core.method import Clock
from limbeck.losses.divergence import soft_log
from limbeck.losses.targets import enhanced
from limbeck.methods.classification.ofa_kd import OFAKD
from limbeck.models.tiny import mixer, mlp, vit
from tests.worlds import CLASSES, SHAPE, vision_world


def test_every_branch_reaches_its_stage_and_none_reaches_the_head() -> None:
    world = vision_world()
    batch, clock = world.batch(), Clock(0, 4)
    students = (world.student(), mlp(7, 5, shape=SHAPE, classes=CLASSES), mixer(8, 6, shape=SHAPE, classes=CLASSES))
    for student in students:
        method = OFAKD(student, world.teachers[0])
        assert len(method.exits) == min(4, len(student.stages)) and method.taps.paths[-1] == student.stages[-1]
        terms = method.loss(batch, clock)
        grads = torch.autograd.grad(terms["ofa"], list(student.parameters()), allow_unused=True)
        names = {n for (n, _), g in zip(student.named_parameters(), grads, strict=True) if g is not None and g.any()}
        assert any(name.startswith(student.stages[0]) for name in names)
        assert not any(name.startswith(student.head + ".") for name in names)
        method.eval()
        with torch.no_grad():
            p = soft_log(method.teacher(batch.x)).exp()
            weights = enhanced(p, batch.y, 1.5, "paper")
            s, features = method.taps(student, batch.x)
            logits = [made(f) for made, f in zip(method.exits, features, strict=True)]
            summed = sum(-(weights * z.log_softmax(1)).sum(1).mean().item() for z in logits)
            terms = method.loss(batch, clock)
        assert terms["ofa"].item() == pytest.approx(summed, rel=1e-4)
        assert terms["kd"].item() == pytest.approx(-(weights * s.log_softmax(1)).sum(1).mean().item(), rel=1e-4)


def test_one_image_of_tokens_is_enough() -> None:
    student = vit(16, 2, shape=SHAPE, classes=CLASSES)
    assert OFAKD(student, vision_world().teachers[0]).loss(vision_world().batch(1), Clock(0, 2))["ofa"].isfinite()
