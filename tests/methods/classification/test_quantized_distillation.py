"""Quantised distillation: the quantiser, the straight-through gradient, the points' gradient, the finished student."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.core.fit import fit
from limbeck.core.method import Clock, Method, Setting
from limbeck.errors import InputError
from limbeck.methods.classification.quantized_distillation import (
    Points,
    QuantizedDistillation,
    Uniform,
    nearest,
    scale,
    uniform,
)
from limbeck.models.load import load_classifier, save_classifier
from limbeck.models.tiny import mlp
from tests.worlds import CLASSES, SGD, SHAPE, vision_world


def slow(w: np.ndarray, points: np.ndarray, bucket: int) -> tuple[np.ndarray, np.ndarray]:
    """Bucket by bucket and weight by weight: Q(w, p), and which point each weight takes."""
    flat, out, chosen = w.ravel(), [], []
    for start in range(0, len(flat), bucket):
        part = flat[start : start + bucket]
        low, wide = part.min(), part.max() - part.min()
        for v in part:
            k = int(np.abs((v - low) / (wide or 1) - points).argmin())
            chosen.append(k)
            out.append(wide * points[k] + low)
    return np.array(out).reshape(w.shape), np.array(chosen)


@pytest.mark.parametrize(("bits", "bucket"), [(1, 7), (2, 256), (4, 20)])
def test_weights_go_to_the_nearest_point_of_their_bucket(bits: int, bucket: int) -> None:
    torch.manual_seed(0)
    w = torch.randn(9, 5, 3, dtype=torch.float64)
    expected, _ = slow(w.numpy(), np.linspace(0, 1, 2**bits), bucket)
    np.testing.assert_allclose(uniform(w, bits, bucket).numpy(), expected, atol=1e-12)
    points = torch.rand(2**bits, dtype=torch.float64)  # in no order
    np.testing.assert_allclose(
        nearest(w, points, bucket).numpy(), slow(w.numpy(), points.numpy(), bucket)[0], atol=1e-12
    )
    for part in uniform(w.float(), bits, bucket).flatten().split(bucket):
        assert len(part.unique()) <= 2**bits
    same = torch.full((3, 4), 0.3)
    assert torch.equal(uniform(same, bits, bucket), same)


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


def test_a_point_collects_the_scaled_gradients_of_its_weights() -> None:
    torch.manual_seed(0)
    w, bucket = torch.randn(30, 11, dtype=torch.float64), 64
    points = torch.linspace(0, 1, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(30, 11, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weight * nearest(w, points, bucket)).sum(), points)
    _, chosen = slow(w.numpy(), points.detach().numpy(), bucket)
    alpha = scale(w, bucket)[1].flatten().repeat_interleave(bucket)[: w.numel()].numpy()
    expected = [(alpha * weight.numpy().ravel())[chosen == j].sum() for j in range(4)]
    np.testing.assert_allclose(gradient.numpy(), expected)
    quantiles = np.quantile(scale(w, bucket)[0].flatten()[: w.numel()].numpy(), np.linspace(0, 1, 4))
    np.testing.assert_allclose(Points(w, 2, bucket).points.detach().numpy(), quantiles, rtol=1e-6)


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
