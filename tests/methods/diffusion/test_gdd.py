"""GDD: a GAN's two losses over frozen eyes; what is frozen stays; the student is the average."""

import math

import pytest
import torch
from torch import nn

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.methods.diffusion.gdd import GDD
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world


def points(n: int = 64) -> Samples:
    return Samples(torch.randn(n, 2), torch.full((n,), -1), torch.arange(n))


def test_the_losses_are_sums_over_levels_and_the_penalty_is_lazy() -> None:
    """At logits of zero every level costs the generator log 2 and the discriminator 2 log 2."""
    torch.manual_seed(0)
    method = GDD(mlp(16, 2), every=4)
    for p in method.heads.parameters():
        nn.init.zeros_(p)
    seen = [
        {n: float(v.detach()) for u in method.updates(points(), Clock(k, 8)) for n, v in u.terms.items()}
        for k in range(5)
    ]
    assert all(abs(s["gan"] - 3 * math.log(2)) < 1e-5 for s in seen)
    assert all(abs(s["discriminator"] - 6 * math.log(2)) < 1e-5 for s in seen)
    assert [k for k, s in enumerate(seen) if "r1" in s] == [0, 4]


def test_the_penalty_is_the_slope_of_the_summed_logits() -> None:
    """gamma / 2 ||w||^2 for eyes that change nothing and a head that is linear there."""

    class Eyes(nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x, x]

    class Line(nn.Module):
        def forward(self, features: list[torch.Tensor], y: torch.Tensor) -> torch.Tensor:
            return torch.stack([f @ torch.tensor([3.0, 4.0]) for f in features])

    method = GDD(mlp(16, 2), Eyes(), gamma=0.1, every=2)
    method.heads = Line()
    *_, last = method.updates(points(), Clock(0, 8))
    assert abs(float(last.terms["r1"]) - 2 * 0.1 / 2 * (6**2 + 8**2)) < 1e-4


def test_what_is_frozen_stays_and_a_name_that_matches_nothing_is_refused() -> None:
    world = diffusion_world()
    student = GDD.distil(world.setting(), {"frozen": ("first", "second")})
    now, before = student.state_dict(), world.teachers[0].state_dict()
    kept = [k for k in now if torch.equal(now[k], before[k])]
    assert {k for k in now if "first" in k or "second" in k} <= set(kept) and len(kept) < len(now)
    with pytest.raises(InputError, match="frozen"):
        GDD(mlp(16, 2), frozen=("conv",))


def test_the_generator_climbs_the_logits_through_every_step() -> None:
    """A step along minus the gradient makes samples look more real; both of two steps get a gradient."""
    torch.manual_seed(0)
    method = GDD(mlp(16, 2), times=(1.0, 0.5))
    for head in method.heads.plain:
        for p in head.parameters():
            p.data = torch.randn_like(p)
    b = points(256)
    calls: list[torch.Tensor] = []
    forward = method.student.net.forward
    method.student.net.forward = lambda x, t, y, e: (calls.append(x), forward(x, t, y, e))[1]
    torch.manual_seed(1)
    loss = next(method.updates(b, Clock(1, 8))).loss
    assert len(calls) == 2 and calls[1].requires_grad
    slopes = torch.autograd.grad(loss, method.players()["student"], allow_unused=True)
    with torch.no_grad():
        for p, g in zip(method.players()["student"], slopes, strict=True):
            p -= 0.02 * g / (1e-6 + max(float(s.norm()) for s in slopes if s is not None)) if g is not None else 0.0
    torch.manual_seed(1)
    assert float(next(method.updates(b, Clock(1, 8))).loss) < float(loss)
    assert method.decay(Clock(0, 8), 64) == 0.0 and abs(method.decay(Clock(100, 200), 64) - 0.5 ** (1 / 5)) < 1e-9
