"""Invertible consistency: each direction has its edges; exact models have no loss and go round; guidance is told."""

import pytest
import torch
from torch import Tensor, nn

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.methods.diffusion.icd import ICD, Decode
from limbeck.models.denoiser import Denoiser
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.path import Flow
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world

MEAN, STD = torch.tensor([0.5, -1.0]), 0.5


class Flowing(nn.Module):
    """The true jumps of the trajectories to a Gaussian: ``x_s = s-mean + (std_s / std_t) (x_t - t-mean)``.

    Told t only, so for one segment: ``up`` jumps to 1, otherwise to 0; its velocity is the secant's.
    """

    def __init__(self, up: bool, off: float = 0.0) -> None:
        super().__init__()
        self.up, self.off = up, nn.Parameter(torch.tensor(off))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None, extra: Tensor | None) -> Tensor:
        t = t[:, None]
        s = torch.ones_like(t) if self.up else torch.zeros_like(t)
        ratio = ((((1 - s) * STD) ** 2 + s**2) / (((1 - t) * STD) ** 2 + t**2)).sqrt()
        jumped = (1 - s) * MEAN + ratio * (x - (1 - t) * MEAN) + self.off * (s - t)
        return (jumped - x) / torch.where(s == t, 1.0, s - t)


def true(up: bool, off: float = 0.0) -> Denoiser:
    return Denoiser(Flowing(up, off), shape=(2,), path=Flow(), prediction="velocity")


def batch(n: int = 512) -> Samples:
    return Samples(MEAN + STD * torch.randn(n, 2), torch.full((n,), -1), torch.arange(n))


def test_true_jumps_have_no_loss_in_either_direction_and_go_round() -> None:
    torch.manual_seed(0)
    teacher = exact(GaussianMixture(MEAN[None], STD))
    method = ICD(true(False), teacher, edges=(0.0, 1.0), scales=(0.0,), grid=200, huber=1.0)
    method.encoder = true(True)
    b = batch()
    losses = [u.loss.item() for u in method.updates(b, Clock(0, 1))]
    method.student, method.encoder = true(False, 0.5), true(True, -0.5)
    wrong = [u.loss.item() for u in method.updates(b, Clock(0, 1))]
    assert max(losses[2:]) < 1e-4 < 1e-2 < min(wrong[2:]), (losses, wrong)  # round trips
    assert all(w > 3 * right for w, right in zip(wrong, losses)), (losses, wrong)
    method.student, method.encoder = true(False), true(True)
    noise = method.encode(b.x)
    torch.testing.assert_close(noise.std(0), torch.ones(2), atol=0.1, rtol=0)
    torch.testing.assert_close(method.student.generate(noise, sampler=Decode((1.0,))), b.x, atol=0.02, rtol=0)


def test_each_direction_asks_for_the_edge_on_its_side() -> None:
    torch.manual_seed(0)
    method = ICD(mlp(8, 2), mlp(8, 2), scales=(0.0,), grid=50)
    assert method.places == (0, 13, 26, 39, 50) and method.student.sampler.nfe == 4
    for name, model in (("reverse", method.student), ("forward_", method.encoder)):
        asked = list[tuple[Tensor, Tensor]]()
        forward = type(model).forward

        def watched(*inputs: Tensor, model: Denoiser = model, asked: list = asked, forward=forward) -> object:
            said = forward(model, *inputs)

            class Watched:
                def at(self, s: Tensor) -> Tensor:
                    asked.append((inputs[1], s))
                    return said.at(s)

            return Watched()

        model.forward = watched
        getattr(method, name)(batch(256))
        (t, b), (near, same) = asked
        del model.forward
        assert torch.equal(b, same) and (b - t).abs().max() <= 13 / 50 + 1e-6
        assert set((50 * b).round().long().tolist()) == set([0, 13, 26, 39] if name == "reverse" else [13, 26, 39, 50])
        assert ((b <= near) & (near < t)).all() if name == "reverse" else ((b >= near) & (near > t)).all()


def test_the_round_trips_move_one_player_each_and_never_with_guidance() -> None:
    world = diffusion_world()
    student = mlp(16, 2, shape=(1, 4, 4), classes=3, extras=1)
    nn.init.normal_(student.net.more[-1].weight)
    method, b = ICD(student, world.teachers[0], scales=(5.0, 9.0)), world.batch(16)
    told = list[Tensor]()
    student.register_forward_pre_hook(lambda _, inputs: told.append(inputs[3]))
    updates = method.updates(b, Clock(0, 1))
    movers = []
    for update in updates:
        grads = torch.autograd.grad(update.loss, [student.net.leave.bias, method.encoder.net.leave.bias],
                                    allow_unused=True)  # fmt: skip
        movers.append((update.player, [g is not None for g in grads]))
    own = {"student": [True, False], "encoder": [False, True]}
    assert [p for p, _ in movers] == ["student", "encoder", "encoder", "student"]
    assert all(moved == own[player] for player, moved in movers)
    assert set(told[0].flatten().tolist()) == {5.0, 9.0} and all(float(w.abs().max()) == 0 for w in told[2:])


def test_guidance_is_dynamic_and_edges_are_checked() -> None:
    told = list[float]()
    model = mlp(8, 2, extras=1)
    model.register_forward_pre_hook(lambda _, inputs: told.append(float(inputs[3][0, 0])))
    model.generate(torch.randn(2, 2), sampler=Decode((1.0, 0.78, 0.52, 0.26), scale=7.0, tau=0.6, told=True))
    assert told == [0.0, 0.0, 7.0, 7.0]
    with pytest.raises(InputError, match="edges"):
        ICD(mlp(8, 2), mlp(8, 2), edges=(0.0, 0.5))
