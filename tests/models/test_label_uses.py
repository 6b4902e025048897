"""Soft labels of synthetic sets: batch-norm statistics, crops, what a network is taught, and sets in folders."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limbeck.data.crops import resized_crop, rolled
from limbeck.errors import InputError
from limbeck.losses.statistics import statistics_distance
from limbeck.models.batch_norm import batch_norms, batch_statistics
from limbeck.models.load_set import load_set, save_set
from limbeck.models.mixing import mixed
from limbeck.models.synthetic import Shared, SyntheticSet, initial
from limbeck.models.use import StaticLogits, TeacherLabels
from tests.worlds import CLASSES, vision_world

WORLD = vision_world(plain=True, teachers=2)


def test_the_distance_is_zero_where_batch_norm_itself_took_the_statistics() -> None:
    norm, x = nn.BatchNorm2d(5, momentum=1.0), torch.randn(12, 5, 4, 3)
    norm(x)  # keeps the mean, and the unbiased variance of 144 places
    var = norm.running_var * 143 / 144
    assert statistics_distance(x, norm.running_mean, var).item() < 1e-5
    assert statistics_distance(x, norm.running_mean, norm.running_var).item() > 1e-3
    by_group = statistics_distance(x, norm.running_mean, var, 3)
    alone = [statistics_distance(part, norm.running_mean, var) for part in x.chunk(3)]
    torch.testing.assert_close(by_group, torch.cat(alone))
    moved = statistics_distance(x + 2.0, norm.running_mean, var)
    torch.testing.assert_close(moved, torch.tensor([2.0 * 5**0.5]), rtol=1e-4, atol=1e-4)


def test_labels_by_the_statistics_of_the_batch_leave_those_that_were_kept() -> None:
    teacher, x = WORLD.teachers[0], 0.3 * WORLD.batch(16).x
    before = copy.deepcopy(teacher.state_dict())
    with batch_statistics(teacher), torch.no_grad():
        by_batch = teacher(x)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert not any(m.training for m in teacher.modules())
    plain = copy.deepcopy(teacher).train()  # no dropout here: train mode is batch statistics
    torch.testing.assert_close(by_batch, plain(x).detach())
    assert not torch.allclose(by_batch, teacher(x), atol=0.1)
    use = TeacherLabels(nn.ModuleList(WORLD.teachers), weights=[0.25, 0.75], statistics="batch")
    with torch.no_grad():
        expected = sum(w * copy.deepcopy(t).train()(x) for w, t in zip((0.25, 0.75), WORLD.teachers, strict=True))
    torch.testing.assert_close(use.label(x), expected)
    with pytest.raises(InputError, match="no batch norm"):
        batch_norms(WORLD.student(0))


def test_crops_show_the_share_that_was_asked_for() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 64).expand(400, 1, 64, 64)  # the difference of two places is the width of a crop
    both = torch.cat([ramp, ramp.transpose(2, 3)], 1)
    seen = resized_crop(both, 0.25, 0.5)
    width, height = (s.flatten(1).max(1)[0] - s.flatten(1).min(1)[0] for s in seen.unbind(1))
    area, aspect = width * height * (64 / 63) ** 2, width / height
    assert area.min() > 0.2 and area.max() < 0.53 and abs(area.mean() - 0.375) < 0.03
    assert aspect.min() > 0.7 and aspect.max() < 1.4
    torch.testing.assert_close(resized_crop(both, 1.0), both, rtol=0, atol=1e-4)  # nothing else fits
    turned = resized_crop(both, 1.0, flip=True)
    assert 120 < (turned[:, 0, 0, 0] > 0.5).sum() < 280
    with pytest.raises(InputError, match="lower"):
        resized_crop(both, 0.0)


def test_draws_are_shared_by_a_pair_and_by_a_group_and_the_gradient_passes() -> None:
    torch.manual_seed(1)
    x = torch.rand(6, 3, 16, 16, requires_grad=True)
    pair = resized_crop(torch.cat([x, x], 1), 0.1, flip=True)
    assert torch.equal(pair[:, :3], pair[:, 3:])
    pair.sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    same = rolled(resized_crop(x[:1].detach().expand(6, -1, -1, -1), 0.1, flip=True, groups=2), 3, groups=2)
    assert torch.equal(same[0], same[2]) and torch.equal(same[3], same[5]) and not torch.equal(same[0], same[3])


def test_mixing() -> None:
    torch.manual_seed(2)
    x = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 10, 10).contiguous()
    for _ in range(20):
        seen, other, own = mixed(x, "cutmix")
        torch.testing.assert_close((seen == x).float().mean((1, 2, 3))[other != torch.arange(8)],
                                   torch.tensor(own).expand(int((other != torch.arange(8)).sum())))  # fmt: skip
        seen, other, own = mixed(x, "mixup")
        torch.testing.assert_close(seen, own * x + (1 - own) * x[other])
    assert mixed(x, "none")[0] is x


def test_a_network_follows_its_labels_and_stored_ones_go_first() -> None:
    made = initial(WORLD.train, 12)
    x = WORLD.test.take(torch.arange(96))[0]
    use = TeacherLabels(nn.ModuleList(WORLD.teachers[:1]), lower=0.5, flip=False, tau=4.0, steps=150, rate=1e-2)
    net = WORLD.student(1)
    with torch.no_grad():
        teacher = WORLD.teachers[0](x)
    torch.manual_seed(0)
    use(net, made)
    agree = (net(x).argmax(1) == teacher.argmax(1)).float().mean()
    assert agree > 0.7 and not net.training
    static = StaticLogits(nn.ModuleList(WORLD.teachers), augment="none", tau=4.0, steps=150, rate=1e-2)
    net = WORLD.student(1)
    static(net, made)
    mean = sum(t(x) for t in WORLD.teachers)
    assert (net(x).argmax(1) == mean.argmax(1)).float().mean() > 0.7
    wrong = static.label(made().detach()).roll(1, 1)  # stored targets go before what the teachers say
    moved = SyntheticSet(made.images, made.stored_y, CLASSES, targets=wrong, use=static)
    net = WORLD.student(1)
    moved.use(net, moved)
    assert (net(x).argmax(1) == (mean.argmax(1) + 1) % 6).float().mean() > 0.6


@pytest.mark.parametrize("kind", ["labels", "static"])
def test_sets_with_teachers_are_read_back(kind: str, tmp_path: Path) -> None:
    for teacher in WORLD.teachers:
        teacher.reference = "cnn-12-20"
    teachers = nn.ModuleList(WORLD.teachers)
    use = (
        TeacherLabels(teachers, weights=[0.3, 0.7], statistics="batch", steps=4)
        if kind == "labels"
        else StaticLogits(teachers, steps=4)
    )
    made = SyntheticSet(Shared(torch.rand(6, 2, 3, 16, 16), 2), torch.arange(6).repeat_interleave(2), CLASSES, use=use)
    torch.nn.init.normal_(made.images.patterns)
    save_set(made, tmp_path / "set")
    again = load_set(tmp_path / "set")
    assert torch.equal(again(), made()) and len(again) == 36
    nets = [WORLD.student(5), WORLD.student(5)]
    for net, held in zip(nets, (made, again), strict=True):
        torch.manual_seed(0)
        held.use(net, held)
    x = WORLD.batch(8).x
    torch.testing.assert_close(nets[0](x), nets[1](x), rtol=0, atol=1e-5)


def test_patterns_of_an_index_are_shared_by_the_classes_alone() -> None:
    shared = Shared(torch.rand(4, 3, 1, 5, 5), 2)
    with torch.no_grad():
        shared.patterns.copy_(torch.arange(6.0).view(2, 3, 1, 1, 1) + 1)
    x = shared().unflatten(0, (4, 3, 3))  # class, index, (plain, pattern 0, pattern 1)
    assert torch.equal(x[:, :, 0], shared.base)
    added = (x[:, :, 1:] - shared.base[:, :, None]).mean((3, 4, 5))
    torch.testing.assert_close(added, (torch.arange(6.0).view(2, 3).T + 1).expand(4, 3, 2))
    assert shared.stored == (12, 12 * 25 + 6 * 25) and shared.repeats() == 3
    assert F.mse_loss(Shared(torch.ones(4, 1, 2, 2), 2)(), torch.ones(12, 1, 2, 2)) == 0
