"""The control: real images of the right class, no image twice, others under another seed."""

import torch

from limbeck.methods.dataset.real_subset import RealSubset
from tests.worlds import vision_world

WORLD = vision_world(plain=True)


def chosen(seed: int) -> RealSubset:
    torch.manual_seed(seed)
    return RealSubset(WORLD.train, per_class=5)


def test_they_are_real_and_of_their_class() -> None:
    made = chosen(0).student
    x, y = WORLD.train.take(torch.arange(len(WORLD.train)))
    rows = torch.cdist(made().detach().flatten(1), x.flatten(1)).argmin(1)
    assert torch.equal(x[rows], made().detach()) and torch.equal(y[rows], made.y)
    assert len(set(rows.tolist())) == 30 == len(made)


def test_the_seed_chooses() -> None:
    assert torch.equal(chosen(1).student(), chosen(1).student())
    assert not torch.equal(chosen(1).student(), chosen(2).student())
