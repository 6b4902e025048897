"""The equations of UNIC."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.method import Clock
from limbeck.core.modules import Taps
from limbeck.core.schedule import Cosine
from limbeck.methods.classification._features import Standardiser
from limbeck.methods.classification._shared import linear_probe
from limbeck.methods.classification.unic import UNIC, coefficients
from limbeck.models.tiny import mlp, vit
from tests.worlds import CLASSES, SHAPE, vision_world


def test_the_loss_is_the_sum_written_out() -> None:
    world = vision_world(teachers=2)
    student, batch = world.student(), world.batch()
    for drop in (0.0, 1.0):
        method = UNIC(student, nn.ModuleList(world.teachers), drop=drop)
        for standard in method.standardisers.values():
            standard.mean.fill_(0.3)
            standard.std.fill_(2.0)
        method.eval()
        found = method.loss(batch, Clock(0, 9))["features"]
        with torch.no_grad():
            first = student.net[0]((batch.x - 0.5) / 0.5)
            second = student.net[1](first)
            stages = {"whole": [first.mean((2, 3), keepdim=True), second.mean((2, 3), keepdim=True)]}
            stages["patch"] = [F.adaptive_avg_pool2d(first, (8, 8)), F.adaptive_avg_pool2d(second, (8, 8))]
            table = np.zeros((2, len(batch.x)))
            for m, teacher in enumerate(world.teachers):
                last = teacher.net[1](teacher.net[0]((batch.x - 0.5) / 0.5))
                for kind, t in (("whole", last.mean((2, 3), keepdim=True)), ("patch", last)):
                    rungs = method.ladders[f"{m}_{kind}"].rungs
                    s = sum(rung.layers(f) for rung, f in zip(rungs, stages[kind], strict=True))
                    table[m] += 0.5 * slow(s, (t - 0.3) / (2.0 + 1e-6))
        expected = table.mean() if drop == 0 else table.max(0).mean()
        assert found.item() == pytest.approx(expected, rel=1e-4)


def slow(s: Tensor, t: Tensor) -> np.ndarray:
    """Half the cosine distance and half smooth L1 of maps (B, C, H, W), position by position."""
    out = np.zeros(len(s))
    for b, (one, other) in enumerate(zip(s.double().numpy(), t.double().numpy(), strict=True)):
        a, c = one.reshape(len(one), -1).T, other.reshape(len(other), -1).T
        for x, y in zip(a, c, strict=True):
            near = 1 - x @ y / np.sqrt((x @ x) * (y @ y))
            d = np.abs(x - y)
            out[b] += (0.5 * near + 0.5 * np.where(d < 1, d**2 / 2, d - 0.5).mean()) / len(a)
    return out


def test_the_worst_teacher_always_counts_and_others_half_of_the_time() -> None:
    torch.manual_seed(0)
    losses = torch.rand(4, 2000)
    worst = F.one_hot(losses.argmax(0), 4).T.bool()
    c = coefficients(losses, 0.5)
    assert c.sum().item() == pytest.approx(1.0, rel=1e-5)
    assert c[worst].min() == c.max() > 0
    assert (c[~worst] > 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert not coefficients(losses, 1.0)[~worst].any()
    torch.testing.assert_close(coefficients(losses, 0.0), torch.full_like(losses, 1 / losses.numel()))


def test_the_momentum_is_the_weight_of_the_new_statistic() -> None:
    a, b = 5 + 3 * torch.randn(64, 6, 4, 4), torch.randn(64, 6, 4, 4)
    standard = Standardiser(6)
    assert torch.allclose(standard(a), a, atol=1e-4), "at first 0 and 1"
    standard.update(a, 1.0)
    z = standard(a)
    assert z.mean((0, 2, 3)).abs().max() < 1e-5 and (z.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-4
    standard.update(b, 0.25)
    expected = 0.75 * a.mean((0, 2, 3)) + 0.25 * b.mean((0, 2, 3))
    torch.testing.assert_close(standard.mean.flatten(), expected)
    world = vision_world(teachers=2)
    method = UNIC(world.student(), nn.ModuleList(world.teachers))
    assert method.momentum == Cosine(1.0, 0.001)
    held = {k: v.clone() for k, v in method.standardisers.state_dict().items()}
    method.eval().loss(world.batch(), Clock(0, 9))
    assert all(torch.equal(v, held[k]) for k, v in method.standardisers.state_dict().items())
    method.train().loss(world.batch(), Clock(0, 9))
    assert not any(torch.equal(v, held[k]) for k, v in method.standardisers.state_dict().items())


def test_labels_reach_the_head_alone_and_any_kinds_meet() -> None:
    world = vision_world(teachers=2)
    before = world.student()
    student = copy.deepcopy(before)
    linear_probe(student, world.data)
    moved = {k for k, v in student.state_dict().items() if not torch.equal(v, before.state_dict()[k])}
    assert moved == {f"{student.head}.weight", f"{student.head}.bias"}
    x, y = world.train.take(torch.arange(len(world.train)))
    loss = F.cross_entropy(student(x), y)
    std = Taps(f"{student.head}:in")(student, x)[1][0].std(0, correction=0)
    weight, bias = student.get_submodule(student.head).parameters()
    (loss + 5e-5 * (weight * std).square().sum()).backward()
    assert loss < 0.8 * F.cross_entropy(before.eval()(x), y)
    assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 2e-3, "the optimum of the penalised regression"
    unknown = replace(world.train, labels=torch.full_like(world.train.labels, -1))
    untouched = copy.deepcopy(before)
    linear_probe(untouched, world.data.with_data(unknown))
    assert all(torch.equal(v, before.state_dict()[k]) for k, v in untouched.state_dict().items())
    batch = world.batch()
    for made in (mlp(7, 5, shape=SHAPE, classes=CLASSES), vit(16, 2, shape=SHAPE, classes=CLASSES)):
        method = UNIC(made, nn.ModuleList(world.teachers))
        assert ("0_patch" in method.ladders) == (made.stages[0] != "net.1"), "an MLP has no positions"
        unknown = batch._replace(y=torch.full_like(batch.y, -1))
        method.loss(unknown, Clock(0, 9))["features"].backward()
        head = made.get_submodule(made.head)
        assert head.weight.grad is None and all(
            p.grad is not None for n, p in made.named_parameters() if not n.startswith(made.head + ".")
        )
