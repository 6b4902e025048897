"""The embedding loss: means of features with a linear kernel, a fresh network a step, and a pull towards the data."""

import pytest
import torch

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.methods.diffusion.embedding_loss import EmbeddingLoss
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.random_features import RandomFeatures
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world


def points(n: int = 64) -> Samples:
    return Samples(torch.randn(n, 2), torch.full((n,), -1), torch.arange(n))


def test_with_a_linear_kernel_it_is_the_distance_of_mean_features() -> None:
    torch.manual_seed(0)
    method = EmbeddingLoss(mlp(16, 2), mlp(16, 2))
    real, fake = torch.randn(64, 2), torch.randn(32, 2) + 1
    a, b = (method.psi(x)[-1].mean(0) for x in (real, fake))
    assert torch.allclose(method.apart(real, fake), (a - b).square().mean(), atol=1e-5)
    assert float(method.apart(real, real)) < 1e-5


@pytest.mark.parametrize("kernel", ["linear", "gaussian"])
def test_the_pull_is_towards_the_data_and_reaches_the_fakes_alone(kernel: str) -> None:
    torch.manual_seed(0)
    method = EmbeddingLoss(mlp(16, 2), mlp(16, 2), kernel=kernel)  # type: ignore[arg-type]
    real = (0.3 * torch.randn(512, 2) + torch.tensor([1.0, 0.0])).requires_grad_()
    fake, moved = (0.3 * torch.randn(512, 2)).requires_grad_(), torch.zeros(2)
    for _ in range(8):
        method.psi.redraw()
        slope, none = torch.autograd.grad(method.apart(real, fake), (fake, real), allow_unused=True)
        assert none is None
        moved = moved - slope.sum(0)
    assert float(moved[0]) > 3 * float(moved[1].abs())


def test_a_fresh_network_every_step_of_the_generator_and_none_is_learnt() -> None:
    method = EmbeddingLoss(mlp(16, 2), mlp(16, 2), ratio=2)
    seen = []
    for k in range(4):
        for update in method.updates(points(), Clock(k, 4)):
            if update.player == "student":
                assert set(update.terms) == {"matching", "embedding"}
                seen.append(method.psi.levels[0][1].weight.clone())
    assert len(seen) == 2 and not torch.allclose(seen[0], seen[1])
    learning = {id(p) for ps in method.players().values() for p in ps}
    assert not learning & {id(p) for p in method.psi.parameters()}
    assert [f.shape[1:] for f in RandomFeatures((1, 8, 8), 4)(torch.randn(2, 1, 8, 8))] == [
        (4, 4, 4), (8, 2, 2), (16, 2, 2)
    ]  # fmt: skip


def test_the_host_leads_to_the_teacher_and_each_part_can_be_left_out() -> None:
    torch.manual_seed(0)
    method = EmbeddingLoss(mlp(16, 2), exact(GaussianMixture(torch.tensor([[2.0, 0.0]]), 0.5)))
    method.critic = exact(GaussianMixture(torch.zeros(1, 2), 0.5))
    x = (0.5 * torch.randn(512, 2)).requires_grad_()
    (slope,) = torch.autograd.grad(method.matching(x, points(512).y), x)
    assert float(slope[:, 0].mean()) < 0 and float(slope[:, 0].mean().abs()) > 5 * float(slope[:, 1].mean().abs())
    world = diffusion_world()
    alone = EmbeddingLoss(world.student(), world.teachers[0], host=0.0)
    assert [set(u.terms) for u in alone.updates(world.batch(8), Clock(0, 2))] == [{"embedding"}]
