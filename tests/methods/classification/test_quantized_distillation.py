"""Quantised distillation: the straight-through gradient, what learns, the finished student."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from limbeck.core.fit import fit
from limbeck.core.method import Clock, Method, Setting
from limbeck.errors import InputError
from limbeck.methods.classification.quantized_distillation import QuantizedDistillation
from limbeck.models.load import load_classifier, save_classifier
from limbeck.models.quantizer import Uniform, uniform
from limbeck.models.tiny import mlp
from tests.worlds import CLASSES, SGD, SHAPE, vision_world


def test_the_gradient_goes_straight_through_to_the_weights_kept_in_full_precision() -> None:
    """A gradient step smaller than a rounding step is not lost, and it is the gradient at Q(w), not at w."""
    torch.manual_seed(0)
    w = torch.randn(40, 10, requires_grad=True)
    quantised = Uniform(2, 256)(w)
    assert torch.equal(quantised, uniform(w.detach(), 2, 256))
    (gradient,) = torch.autograd.grad(quantised.pow(3).sum(), w)
    torch.testing.assert_close(gradient, 3 * uniform(w.detach(), 2, 256).square())
    world = vision_world()
    method = QuantizedDistillation(world.student(), world.teachers[0], bits=2)
    held = method.student.net[0][0].parametrizations.weight.original
    before = held.detach().clone()
    fit(method, world.data, lambda ps: torch.optim.SGD(ps, lr=1e-6), steps=1)
    moved = (held - before).abs()
    assert 0 < moved.max() < 1e-4 and len(held.unique()) == held.numel()


def setting(folder: Path | None = None) -> tuple[Setting, dict[str, Method]]:
    world, fitted, seeds = vision_world(), {}, itertools.count()
    base = world.setting(3, folder)

    def run(method: Method, *, name: str = "student", **rest: Any) -> None:
        fitted[name] = method
        base.fit(method, name=name, **rest)

    def student() -> nn.Module:
        return load_classifier("cnn-6-10", shape=SHAPE, classes=CLASSES, seed=next(seeds))

    return Setting(student, world.teachers, base.data, 3, run), fitted


@pytest.mark.parametrize("variant", ["quantized", "differentiable", "post_training"])
def test_the_finished_student_is_a_plain_one_with_few_values(variant: str, tmp_path: Path) -> None:
    world, (given, fitted) = vision_world(), setting(tmp_path / "run")
    student = QuantizedDistillation.distil(given, {"variant": variant, "bits": 3, "bucket": 32})
    names = {name for name, _ in given.student().named_parameters()}
    assert {name for name, _ in student.named_parameters()} == names
    for p in student.parameters():
        if p.ndim > 1:
            assert all(len(part.unique()) <= 8 for part in p.flatten().split(32)) and len(p.unique()) > 8
    assert list(fitted) == ["full-precision", "student"] if variant == "differentiable" else ["student"]
    save_classifier(student, tmp_path / "student")
    x = world.batch().x
    assert torch.equal(load_classifier(str(tmp_path / "student")).eval()(x), student.eval()(x))
    again = QuantizedDistillation.distil(setting(tmp_path / "run")[0], {"variant": variant, "bits": 3, "bucket": 32})
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in student.state_dict().items())


def test_only_the_points_learn_and_the_ends_may_stay() -> None:
    world = vision_world()
    method = QuantizedDistillation(world.student(), world.teachers[0], variant="differentiable", bits=2)
    assert [tuple(p.shape) for p in method.players()["student"]] == [(4,)] * 3
    optimizer = method.optimizers(SGD)["student"]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.05)
    kept = QuantizedDistillation(world.student(), world.teachers[0], ends="full")
    assert [n for n, _ in kept.student.named_parameters() if "original" in n] == [
        "net.1.0.parametrizations.weight.original"
    ]
    assert set(kept.loss(world.batch(), Clock(0, 1))) == {"ce", "kd"}
    with pytest.raises(InputError, match="ends"):
        QuantizedDistillation(mlp(5, shape=SHAPE, classes=CLASSES), world.teachers[0], ends="full")
