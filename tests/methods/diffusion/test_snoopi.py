"""SNOOPI: one random guidance for both sides; NASA is two attentions, and nothing at alpha zero."""

import pytest
import torch

from limbeck.errors import InputError
from limbeck.methods.diffusion.snoopi import Snoopi
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.negative_attention import away, steered
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world


def test_both_sides_are_guided_by_the_same_draw() -> None:
    """By hand from the same random numbers; no guidance on the critic would give another gradient."""
    torch.manual_seed(0)
    mixture = GaussianMixture(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), 0.5, labels=torch.tensor([0, 1]))
    method = Snoopi(mlp(16, 2, classes=2), exact(mixture))
    real, fake = method.teacher, method.critic
    x, y, kappa = torch.randn(32, 2, requires_grad=True), torch.arange(32) % 2, torch.linspace(2, 5, 32)
    torch.manual_seed(1)
    (slope,) = torch.autograd.grad(method.matching(x, y, kappa), x)
    torch.manual_seed(1)
    t = 0.02 + 0.96 * torch.rand(32)
    x_t = real.path.noised(x.detach(), torch.randn(32, 2), t)
    with torch.no_grad():
        sides = [m(x_t, t).eps + kappa[:, None] * (m(x_t, t, y).eps - m(x_t, t).eps) for m in (real, fake)]
    assert torch.allclose(slope * 64, t[:, None] ** 2 * (sides[0] - sides[1]), atol=1e-4)


def test_the_gradient_is_linear_in_the_guidance() -> None:
    """Hence in expectation over kappa it is the middle's: what the draw adds is spread."""
    torch.manual_seed(0)
    mixture = GaussianMixture(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), 0.5, labels=torch.tensor([0, 1]))
    method = Snoopi(mlp(16, 2, classes=2), exact(mixture))
    x, y, slopes = torch.randn(32, 2, requires_grad=True), torch.arange(32) % 2, list[torch.Tensor]()
    for kappa in (1.5, 7.5, 4.5):
        torch.manual_seed(1)
        slopes.append(torch.autograd.grad(method.matching(x, y, torch.full((32,), kappa)), x)[0])
    low, high, middle = slopes
    assert torch.allclose((low + high) / 2, middle, atol=1e-6) and not torch.allclose(low, high, atol=1e-3)


def test_guidance_is_drawn_a_sample_within_its_range() -> None:
    world = diffusion_world()
    method = Snoopi(world.student(), world.teachers[0], lowest=2.0, highest=3.0)
    seen: list[torch.Tensor] = []
    matching = method.matching
    method.matching = lambda x, y, k: (seen.append(k), matching(x, y, k))[1]  # type: ignore[method-assign]
    list(zip(method.updates(world.batch(32), None), range(1)))  # type: ignore[arg-type]
    assert 2 <= float(seen[0].min()) < float(seen[0].max()) <= 3 and len(seen[0].unique()) == 32
    with pytest.raises(InputError, match="classes"):
        Snoopi(mlp(16, 2), mlp(16, 2))
    with pytest.raises(InputError, match="highest"):
        Snoopi(world.student(), world.teachers[0], lowest=3.0, highest=2.0)


def test_nasa_is_one_attention_less_a_share_of_the_other() -> None:
    torch.manual_seed(0)
    q, (k, v), (m, w) = torch.randn(2, 5, 4), torch.randn(2, 2, 7, 4), torch.randn(2, 2, 3, 4)
    plain = [(q @ a.mT / 2).softmax(-1) @ b for a, b in ((k, v), (m, w))]
    assert torch.allclose(away(q, (k, v), (m, w), 0.3), plain[0] - 0.3 * plain[1], atol=1e-6)


def test_a_network_is_steered_inside_and_itself_again_outside() -> None:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    net = UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8, attention_head_dim=4,
    ).eval()  # fmt: skip
    x, prompt, negative = torch.randn(2, 1, 8, 8), torch.randn(2, 3, 8), torch.randn(1, 5, 8)

    words = torch.tensor([[1, 1, 1], [1, 1, 0]])  # a prompt is shorter

    @torch.no_grad()
    def said() -> torch.Tensor:
        return net(x, 999, prompt, encoder_attention_mask=words).sample

    before = said()
    with steered(net, negative, 0.0):
        assert torch.allclose(said(), before, atol=1e-5), "at zero it is the network's own attention"
    with steered(net, negative, 0.5):
        assert not torch.allclose(said(), before, atol=1e-4)
    assert torch.equal(said(), before)
