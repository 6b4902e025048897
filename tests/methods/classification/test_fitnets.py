"""The equations of FitNets."""

import numpy as np
import pytest
import torch

from limbeck.core.method import Clock
from limbeck.errors import InputError
from limbeck.methods.classification._features import regressor
from limbeck.methods.classification._shared import as_map
from limbeck.methods.classification.fitnets import FitNets
from limbeck.models.tiny import cnn, mlp, vit
from tests.worlds import CLASSES, SHAPE, vision_world


def test_stage_1_is_half_the_summed_square_and_moves_nothing_above_the_guided_layer() -> None:
    world = vision_world()
    student, teacher, batch = world.student(), world.teachers[0], world.batch()
    method = FitNets(student, teacher).eval()
    terms = method.loss(batch, Clock(0, 10))
    assert list(terms) == ["hint"]
    with torch.no_grad():
        _, [hint] = method.hint_tap(teacher, batch.x)
        _, [guided] = method.guided_tap(student, batch.x)
        predicted = method.regressor(guided)
    expected = 0.5 * ((hint.numpy() - predicted.numpy()) ** 2).sum((1, 2, 3)).mean()
    assert terms["hint"].item() == pytest.approx(float(expected), rel=1e-5)
    mean = FitNets(student, teacher, reduction="mean").eval()
    mean.regressor = method.regressor
    assert mean.loss(batch, Clock(0, 10))["hint"].item() * hint[0].numel() / 2 == pytest.approx(
        float(expected), rel=1e-5
    )
    terms["hint"].backward()
    moved = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert moved == {name for name, _ in student.named_parameters() if name.startswith("net.0.")}


def test_stage_2_is_soft_cross_entropy_without_tau_squared_annealed_from_4_to_1() -> None:
    world = vision_world()
    student, teacher, batch = world.student().eval(), world.teachers[0], world.batch()
    method = FitNets(student, teacher, hint_share=0.5, tau=3.0).eval()
    with torch.no_grad():
        s, t = student(batch.x).double().numpy(), teacher(batch.x).double().numpy()

    def softmax(z: np.ndarray) -> np.ndarray:
        e = np.exp(z / 3)
        return e / e.sum(1, keepdims=True)

    soft = -(softmax(t) * np.log(softmax(s))).sum(1).mean()
    for step, weight in ((5, 4.0), (9, 1.0)):
        assert method.loss(batch, Clock(step, 10))["kd"].item() == pytest.approx(weight * soft, rel=1e-4)


def test_the_regressor_is_a_valid_convolution_that_fits_exactly() -> None:
    assert regressor((3, 9, 7), (5, 4, 7)).kernel_size == (6, 1)
    for source, target in (
        ((3, 9, 7), (5, 4, 7)),
        ((3, 1, 1), (4, 1, 1)),
        ((3, 1, 1), (4, 5, 6)),
        ((3, 2, 2), (4, 6, 6)),
    ):
        assert regressor(source, target)(torch.zeros(2, *source)).shape == (2, *target)
    tokens = torch.arange(2 * 17 * 3.0).view(2, 17, 3)  # a class token and a 4 x 4 grid
    assert torch.equal(as_map(tokens)[1, :, 2, 3], tokens[1, 1 + 2 * 4 + 3])


def test_any_kinds_meet_and_wrong_layers_are_refused() -> None:
    world = vision_world()
    for student in (mlp(7, 5, shape=SHAPE, classes=CLASSES), vit(16, 2, shape=SHAPE, classes=CLASSES)):
        assert FitNets(student, world.teachers[0]).loss(world.batch(), Clock(0, 4))["hint"].isfinite()
    one = FitNets(cnn(6, 10, shape=SHAPE, classes=CLASSES), world.teachers[0], variant="one_stage")
    one_term = one.loss(world.batch(), Clock(0, 4))
    assert set(one_term) == {"ce", "hint"}
    with pytest.raises(InputError, match="guided"):
        FitNets(world.student(), world.teachers[0], guided="net.99")
