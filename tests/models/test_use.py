"""Uses of a set, and networks drawn anew."""

import pytest
import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.models.renew import renew
from limbeck.models.synthetic import initial
from limbeck.models.use import Descent
from tests.worlds import accuracy, vision_world

WORLD = vision_world(plain=True)


def test_training_on_a_set_teaches_its_classes_and_follows_the_generator() -> None:
    torch.manual_seed(0)
    made = initial(WORLD.train, 8, use=Descent(steps=60, augment="shift"))
    nets = []
    for seed in (1, 1, 2):
        net = WORLD.student(1)
        torch.manual_seed(seed)
        made.use(net, made)
        nets.append(net)
    assert accuracy(nets[0], WORLD.test) > 0.6 and not nets[0].training
    states = [torch.cat([p.flatten() for p in net.parameters()]) for net in nets]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_a_renewed_network_is_a_fresh_one() -> None:
    torch.manual_seed(3)
    whole = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    again = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    again[1](torch.randn(8, 4, 3, 3))  # statistics that must go
    torch.manual_seed(3)
    renew(again)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_what_cannot_be_drawn_anew_is_named() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    net.scale = nn.Parameter(torch.ones(2))
    with pytest.raises(InputError, match="scale"):
        renew(net)
