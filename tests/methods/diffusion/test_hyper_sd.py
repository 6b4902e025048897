"""Hyper-SD: jumps stay in their segment, exact jumps have no loss, the reward and the score lead where they should."""

import pytest
import torch
from torch import Tensor, nn

from limbeck.core.method import Method, Setting
from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.methods.diffusion._jumps import above, below, edges, stage
from limbeck.methods.diffusion.hyper_sd import HyperSD
from limbeck.models.denoiser import Denoiser
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.path import Flow
from limbeck.models.tiny_denoiser import mlp


def batch(n: int = 256, x: Tensor | None = None) -> Samples:
    return Samples(torch.randn(n, 2) if x is None else x, torch.full((n,), -1), torch.arange(n))


def test_segments_and_their_curriculum() -> None:
    n = torch.arange(1, 13)
    assert below(n, edges(3, 12)).tolist() == [0] * 4 + [4] * 4 + [8] * 4  # an edge belongs to the segment under it
    assert above(n[:-1], edges(3, 12)).tolist() == [4] * 3 + [8] * 4 + [12] * 4
    told = [stage(Clock(k, 8), (8, 4, 2, 1)) for k in range(8)]
    assert told == [(8, True), (8, False), (4, True), (4, False), (2, True), (2, False), (1, True), (1, False)]


@pytest.mark.parametrize("k", [1, 4])
def test_jumps_stay_in_their_segment_and_exact_ones_have_no_loss(k: int) -> None:
    """To one point all trajectories are straight, and the teacher as student jumps exactly."""
    torch.manual_seed(0)
    point = torch.tensor([[0.5, -1.0]])

    class Straight(nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor | None, extra: Tensor | None) -> Tensor:
            return (x - point) / t[:, None].clamp(min=1e-6)

    student = Denoiser(Straight(), shape=(2,), path=Flow(), prediction="velocity")
    method = HyperSD(student, exact(GaussianMixture(point, 1e-4)), grid=16, guidance=1.0, gan=0.0)
    seen = []
    student.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    jumped, goal, s = method.jump(batch(x=point.expand(256, 2)), k)
    t = seen[0]
    assert (((t * k).ceil() - 1) / k <= s + 1e-6).all() and (s <= t - 1 / 16 + 1e-6).all()
    assert float(s.min()) < 0.1 and float((t - s).max()) > 0.6 / k
    torch.testing.assert_close(jumped, goal, atol=1e-3, rtol=1e-3)


class Linear(nn.Module):
    """A reward that grows along the first axis."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x[:, 0]


def test_the_reward_and_the_score_lead_where_they_should() -> None:
    torch.manual_seed(0)
    teacher = exact(GaussianMixture(torch.tensor([[2.0, 0.0]]), 0.5))
    method = HyperSD(mlp(16, 2), teacher, Linear(), stages=("reward",), guidance=1.0, margin=50.0)
    (update,) = method.updates(batch(), Clock(0, 4))
    (slope,) = torch.autograd.grad(update.terms["reward"], [method.student.net.leave.bias])
    assert slope[0] > 0  # the sample is noise minus this velocity: down with it, up with the reward
    method.margin = -50.0
    assert next(method.updates(batch(), Clock(0, 4))).terms["reward"].item() == 0
    method = HyperSD(mlp(16, 2), teacher, stages=("score",), guidance=1.0)
    x = (0.5 * torch.randn(512, 2)).requires_grad_()
    method.critic = exact(GaussianMixture(torch.zeros(1, 2), 0.5))  # what x really is
    (slope,) = torch.autograd.grad(method.matching(x, torch.full((512,), -1)), x)
    assert slope[:, 0].mean() < 0 and slope[:, 0].mean().abs() > 5 * slope[:, 1].mean().abs()


def test_the_discriminator_weighs_more_with_fewer_segments_and_players_pull_apart() -> None:
    torch.manual_seed(0)
    method = HyperSD(mlp(16, 2), mlp(16, 2), segments=(4, 1), guidance=1.0, gan=0.2, grid=16)
    method.logits = lambda x, s, y: x[:, 0]  # "real" lies along the first axis
    for step, weight in ((0, 0.05), (1, 0.2)):
        updates = method.updates(batch(), Clock(step, 2))
        first = next(updates)
        (slope,) = torch.autograd.grad(first.terms["adversarial"], [method.student.net.leave.weight], retain_graph=True)
        (jump,) = torch.autograd.grad(first.loss, [method.student.net.leave.weight])
        assert slope.abs().sum() > 0 and not torch.equal(slope, jump)
        second = updates.send(True)
        assert (first.player, second.player) == ("student", "critic")
        assert not second.loss.requires_grad  # what the students make comes to the critic without a graph
        method.logits = lambda x, s, y: torch.ones(len(x))
        update = next(method.updates(batch(), Clock(step, 2)))
        assert update.terms["adversarial"].item() == pytest.approx(-weight)
        method.logits = lambda x, s, y: x[:, 0]


def test_stages_follow_each_other() -> None:
    told = list[tuple[str, int, Method]]()
    setting = Setting(
        lambda: mlp(8, 2), [mlp(8, 2)], [], 100, lambda m, *, name, steps: told.append((name, steps, m))
    )  # fmt: skip
    made = HyperSD.distil(setting, {"guidance": 1.0})
    assert [(n, k) for n, k, _ in told] == [("consistency", 100), ("score", 25)]
    assert all(m.student is made for _, _, m in told)
    with pytest.raises(InputError, match="stages"):
        HyperSD.distil(setting, {"guidance": 1.0, "stages": ("reward",)})
