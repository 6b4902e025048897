"""The equations of MSDCRD."""

import pytest
import torch
from torch.nn import functional as F

from limbeck.core.method import Clock
from limbeck.errors import InputError
from limbeck.losses.contrastive import info_nce
from limbeck.methods.classification._shared import as_map
from limbeck.methods.classification.msdcrd import MSDCRD, kernels, windows
from limbeck.models.tiny import mlp, vit
from tests.worlds import CLASSES, SHAPE, vision_world

CLOCK = Clock(0, 1)


def test_the_full_window_is_the_contrast_of_global_features() -> None:
    world = vision_world()
    batch, teacher, student = world.batch(), world.teachers[0], world.student()
    method = MSDCRD(student, teacher, scales=1, contrast=2.0).eval()
    terms = method.loss(batch, CLOCK)
    with torch.no_grad():
        _, [v] = method.stage_tap(teacher, batch.x)
        _, [u] = method.guided_tap(student, batch.x)
        u, v = method.projector(u).mean((2, 3)), v.mean((2, 3))
        plain = info_nce(F.normalize(u), F.normalize(v), 0.1).mean()
        across = info_nce(F.normalize(u, dim=0).T, F.normalize(v, dim=0).T, 0.1).mean()
    assert terms["sample"].item() == pytest.approx(2 * plain.item(), rel=1e-4)
    assert terms["channel"].item() == pytest.approx(2 * across.item(), rel=1e-4)
    more = MSDCRD(student, teacher, scales=3).eval()
    more.projector = method.projector
    assert more.loss(batch, CLOCK)["sample"].item() > plain.item()  # every scale adds its own


def test_windows_are_means_of_one_images_regions() -> None:
    assert kernels((8, 8), 3) == [(8, 8), (4, 4), (2, 2)]
    assert kernels((1, 1), 3) == [(1, 1)]
    feature = torch.randn(2, 3, 8, 8)
    found = windows(feature, (4, 4)).view(2, 3, 3, 3)  # image, row, column, channel; stride 2
    assert torch.allclose(found[1, 2, 1], feature[1, :, 4:8, 2:6].mean((1, 2)), atol=1e-6)


def test_categories_come_from_the_teachers_head_and_other_kinds_of_students_meet_it() -> None:
    world = vision_world()
    batch, teacher = world.batch(16), world.teachers[0]
    whole, [feature] = MSDCRD(world.student(), teacher).stage_tap(teacher, batch.x)
    head = teacher.get_submodule(teacher.head)
    assert torch.equal(head(windows(feature, (8, 8))).argmax(1), whole.argmax(1))  # globally, all agree
    torch.manual_seed(0)
    light = MSDCRD(world.student(), teacher, complementary=0.0).eval()
    full = MSDCRD(world.student(), teacher, complementary=1.0).eval()
    full.projector = light.projector
    assert full.loss(batch, CLOCK)["sample"] > light.loss(batch, CLOCK)["sample"]  # some windows do not
    for student, grid in (
        (mlp(7, shape=SHAPE, classes=CLASSES), (1, 1)),
        (vit(16, 2, shape=SHAPE, classes=CLASSES), None),
    ):
        method = MSDCRD(student, teacher)
        _, [guided] = method.guided_tap(student, batch.x)
        assert method.size == (grid or as_map(guided).shape[2:])
        assert all(term.isfinite() for term in method.loss(batch, CLOCK).values())
    with pytest.raises(InputError, match="stage"):
        MSDCRD(world.student(), teacher, stage="net.0")
