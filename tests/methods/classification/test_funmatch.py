"""FunMatch (Beyer et al., 2021): one set of pixels for both networks, no labels, mixing that resumes."""

import pytest
import torch
from torch import Tensor, nn

from limbeck import Clock
from limbeck.losses.divergence import distil_kl
from limbeck.methods.classification.funmatch import FunMatch, mixup
from tests.worlds import vision_world

CLOCK = Clock(0, 1)


class _Seen(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.x = net, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.x.append(x)
        return self.net(x)


def test_both_networks_see_the_same_mixed_pixels_and_no_label_is_read() -> None:
    world = vision_world()
    student, teacher = _Seen(world.student().eval()), _Seen(world.teachers[0])
    batch = world.batch()._replace(y=torch.full((8,), -1))
    batch = batch._replace(view=1 - batch.x)
    term = FunMatch(student, teacher, tau=2.0).eval().loss(batch, CLOCK)["kd"]
    [seen], [taught] = student.x, teacher.x
    assert torch.equal(seen, taught)
    assert not torch.equal(seen, batch.x)
    s, t = student.net(seen), teacher.net(seen)
    assert float(term.detach()) == pytest.approx(float(distil_kl(s, t, 2.0).mean().detach()), rel=1e-5)
    assert float(term.detach()) > 0


def test_mixing_is_convex_with_the_row_before_and_follows_torchs_generator() -> None:
    x = torch.eye(4)
    shares = []
    for seed in range(50):
        torch.manual_seed(seed)
        mixed = mixup(x)
        m = float(mixed[0, 0])
        torch.testing.assert_close(mixed, m * x + (1 - m) * x[[3, 0, 1, 2]])
        torch.manual_seed(seed)
        assert torch.equal(mixup(x), mixed)
        shares.append(m)
    assert 0.5 <= min(shares) < 0.6 and 0.9 < max(shares) <= 1


def test_without_mixing_the_images_are_the_batchs() -> None:
    world = vision_world()
    teacher = _Seen(world.teachers[0])
    FunMatch(world.student(), teacher, mixing=False).loss(world.batch(), CLOCK)
    assert torch.equal(teacher.x[0], world.batch().x)
