"""Supervised training: the loss is the negative log-probability of the label, and nothing else is read."""

import numpy as np
import pytest
import torch

from limbeck import Clock, fit
from limbeck.errors import InputError
from limbeck.methods.classification.supervised import Supervised
from tests.worlds import SGD, accuracy, vision_world

CLOCK = Clock(0, 1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_cross_entropy_to_the_smoothed_label(smoothing: float) -> None:
    world = vision_world()
    batch, student = world.batch(), world.student().eval()
    z = student(batch.x).detach().double().numpy()
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    target = (1 - smoothing) * np.eye(z.shape[1])[batch.y.numpy()] + smoothing / z.shape[1]
    loss = Supervised(student, smoothing=smoothing).loss(batch, CLOCK)
    assert float(loss) == pytest.approx(float(-(target * log_p).sum(1).mean()), rel=1e-5)


def test_it_learns() -> None:
    world = vision_world()
    student = world.student()
    before = accuracy(student, world.test)
    fit(Supervised(student), world.data, SGD, steps=60)
    assert accuracy(student, world.test) > before + 0.3


def test_smoothing_is_a_share() -> None:
    with pytest.raises(InputError, match="smoothing"):
        Supervised(torch.nn.Linear(2, 2), smoothing=1.5)
