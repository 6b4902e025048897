"""The affine map does what its parameters say."""

import math

import torch

from limbeck.models.augmentor import affine


def moved(x: torch.Tensor, **by: float) -> torch.Tensor:
    names = ("angle", "across", "down", "shear", "right", "below")
    return affine(x, torch.tensor([[by.get(name, 0.0) for name in names]], dtype=x.dtype).expand(len(x), 6))


def test_the_map_shifts_turns_and_stretches_by_what_it_says() -> None:
    torch.manual_seed(0)
    x = torch.rand(3, 2, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(moved(x), x)
    black = torch.zeros(3, 2, 8, 2, dtype=torch.float64)
    torch.testing.assert_close(moved(x, right=0.5), torch.cat([black, x[..., :-2]], 3))
    torch.testing.assert_close(moved(x, below=-0.25)[:, :, :-1], x[:, :, 1:])
    torch.testing.assert_close(moved(x, angle=math.pi / 2), x.rot90(-1, (2, 3)))  # clockwise, as y points down
    ramp = torch.linspace(-7, 7, 8, dtype=torch.float64).expand(1, 1, 8, 8)
    wide = moved(ramp, across=math.log(2))
    torch.testing.assert_close(wide, ramp / 2)
    torch.testing.assert_close(moved(ramp, shear=0.5)[0, 0, 2:6, 3], ramp[0, 0, 2:6, 3] - ramp.mT[0, 0, 2:6, 3] * 0.5)
    turned = moved(x, angle=0.4, right=0.25)  # turned first, then shifted
    torch.testing.assert_close(turned[..., 1:], moved(x, angle=0.4)[..., :-1])
