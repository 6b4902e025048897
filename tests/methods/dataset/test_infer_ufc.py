"""INFER: one pattern for all classes, what it costs, its gradient, and labels that are stored."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limbeck.core.schedule import Clock
from limbeck.errors import InputError
from limbeck.methods.dataset._recover import recovered
from limbeck.methods.dataset.infer_ufc import INFER
from tests.worlds import vision_world

WORLD = vision_world(plain=True, teachers=2)


def built(**values: object) -> INFER:
    torch.manual_seed(0)
    return INFER(WORLD.train, nn.ModuleList(WORLD.teachers), **{"jitter": 0.0, **values})


def test_the_set_costs_what_it_may_and_decodes_to_more() -> None:
    method = built(per_class=8)  # 6 of 8 for bases, 6 x 2 patterns: 48 images' worth of pixels
    assert method.student.budget.pixels == 8 * 6 * 3 * 16 * 16
    assert len(method.student) == 6 * 6 * 3 and method.student.budget.images == 36
    assert built(per_class=9).student.budget.images == 36  # rounded down
    with pytest.raises(InputError, match="per_class"):
        built(per_class=1)


def test_a_pattern_is_learnt_on_all_classes_by_its_own_network() -> None:
    method = built(per_class=3, r_bn=0.2)
    images = method.student.images
    torch.nn.init.normal_(images.patterns, std=0.1)
    slopes = torch.autograd.grad(sum(method.loss(WORLD.batch(8), Clock(0, 1)).values()), images.patterns)[0]
    y = torch.arange(6)
    for m, teacher in enumerate(WORLD.teachers):
        for b in range(2):
            u = images.patterns[m, b].detach().requires_grad_()
            x = images.base[:, b] + u
            found = recovered(teacher, x, y, 1, 10.0)
            loss = F.cross_entropy(teacher(x), y) + 0.2 * found.bn[0]
            expected = torch.autograd.grad(loss, u)[0] / 4  # means over two networks and two bases
            torch.testing.assert_close(slopes[m, b], expected, rtol=1e-3, atol=1e-6)
    assert [p is images.patterns for p in method.players()["student"]] == [True]


def test_the_set_stores_the_mean_logits_of_what_is_seen() -> None:
    made = INFER.distil(WORLD.setting(3), {"per_class": 3})
    x = made().detach().clamp(0, 1)
    torch.testing.assert_close(made.targets.detach(), sum(t(x) for t in WORLD.teachers) / 2)
    assert made.budget.labels == 36 * 6
    exported = made.exported()
    assert len(exported) == 36 and float(exported.images.max()) <= 1
    assert INFER.distil(WORLD.setting(3), {"per_class": 3, "labels": "dynamic"}).targets is None
