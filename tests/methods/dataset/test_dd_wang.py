"""Dataset distillation: the loss is that of the trained network, its gradient goes through the training."""

import copy

import pytest
import torch
from torch.nn import functional as F

from limbeck.core.schedule import Clock
from limbeck.data.by_class import ClassBatches
from limbeck.errors import InputError
from limbeck.methods.dataset.dd_wang import DatasetDistillation
from tests.worlds import vision_world

WORLD = vision_world(plain=True)


def built(**values: object) -> DatasetDistillation:
    torch.manual_seed(0)
    return DatasetDistillation(WORLD.train, WORLD.student(), **values)


def test_the_loss_is_that_of_a_network_which_the_set_has_trained() -> None:
    method, batch = built(weights="fixed", steps=2, epochs=2, rate=0.1), next(iter(ClassBatches(WORLD.train, 4)))
    loss = method.loss(batch, Clock(0, 1))["real"]
    net = copy.deepcopy(method.net).requires_grad_(True)
    x, y = method.student().detach(), method.student.y
    for _ in range(2):
        for s in range(2):  # image s of every class is step s
            rows = torch.arange(6) * 2 + s
            slopes = torch.autograd.grad(F.cross_entropy(net(x[rows]), y[rows]), list(net.parameters()))
            with torch.no_grad():
                for p, g in zip(net.parameters(), slopes, strict=True):
                    p -= 0.1 * g
    torch.testing.assert_close(loss, F.cross_entropy(net(batch.x), batch.y), rtol=1e-4, atol=1e-5)
    other = WORLD.student(9)
    method.student.use(other, method.student)
    torch.testing.assert_close(other(batch.x), net(batch.x), rtol=1e-4, atol=1e-4)


def test_the_gradients_of_pixels_and_rates_are_the_finite_differences() -> None:
    method, batch = built(weights="fixed", steps=1, epochs=2, rate=0.2), next(iter(ClassBatches(WORLD.train, 4)))
    method.double()
    batch = batch._replace(x=batch.x.double())
    method.loss(batch, Clock(0, 1))["real"].backward()
    for held in (method.student.images.pixels, method.student.raw_rates):
        toward = torch.randn(held.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        around = []
        for sign in (1, -1):
            with torch.no_grad():
                held += sign * 1e-6 * toward
                around.append(float(method.loss(batch, Clock(0, 1))["real"]))
                held -= sign * 1e-6 * toward
        slope = (around[0] - around[1]) / 2e-6  # a small step: where a ReLU turns, the trained network jumps
        assert float((held.grad * toward).sum()) == pytest.approx(slope, rel=1e-3)


def test_random_weights_are_drawn_anew_and_batch_norm_is_refused() -> None:
    method, batch = built(inits=1), next(iter(ClassBatches(WORLD.train, 4)))
    assert float(method.loss(batch, Clock(0, 1))["real"]) != float(method.loss(batch, Clock(0, 1))["real"])
    with pytest.raises(InputError, match="batch norm"):
        DatasetDistillation(WORLD.train, vision_world().student())
