"""Few-step SiD: where steps begin, who is guided and told the label, one step is SiD, the discriminator's direction."""

from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.methods.diffusion import sid
from limbeck.methods.diffusion.sid import SiD
from limbeck.methods.diffusion.sid_few_step import SiDFewStep
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world


def test_the_first_step_reads_noise_and_the_others_the_steps_before() -> None:
    """From 5/7 in equal parts; with one step the generator and its loss are SiD's."""
    method = SiDFewStep(mlp(16, 2), mlp(16, 2), steps=4)
    assert method.times == pytest.approx((5 / 7, 15 / 28, 5 / 14, 5 / 28))
    assert method.student.sampler.nfe == 4
    torch.manual_seed(0)
    one, other = SiDFewStep(mlp(16, 2), mlp(16, 2), steps=1), SiD(mlp(16, 2), mlp(16, 2))
    other.student, other.teacher, other.critic = one.student, one.teacher, one.critic
    other.alpha = 1.0
    batch = Samples(torch.zeros(8, 2), torch.full((8,), -1), torch.arange(8))
    made: list[Tensor] = []
    for method in (one, other):
        torch.manual_seed(1)
        if method is other:
            torch.randint(1, ())  # which of its one steps
        made.append(method.generate(batch))
    assert torch.allclose(*made)


def test_it_is_sids_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    teacher, student, critic = mlp(16, 2), mlp(16, 2), mlp(16, 2)
    one, other = SiDFewStep(student, teacher), SiD(student, teacher, alpha=1.0)
    one.critic = other.critic = critic
    x, y, t = torch.randn(8, 2), torch.full((8,), -1), torch.full((8,), 0.4)
    monkeypatch.setattr(sid, "karras_times", lambda path, x, high: t)
    torch.manual_seed(1)
    wanted = other.fisher(x, y)
    torch.manual_seed(1)
    x_t = teacher.path.noised(x, torch.randn_like(x), t)
    assert torch.allclose(one.fisher(x, x_t, t, y, y), wanted) and float(wanted.abs()) > 0


@pytest.mark.parametrize(
    ("values", "teacher_w", "fake_w", "told"),
    [
        ({"guidance": 3.0, "fake_guidance": 3.0, "fake_guidance_in_training": 3.0}, 3.0, 3.0, True),
        ({"fake_labels": False}, 1.0, None, False),
        ({"fake_guidance": -0.5}, 1.0, -0.5, True),
    ],
)
def test_the_three_kinds_of_guidance(
    values: dict[str, Any], teacher_w: float, fake_w: float | None, told: bool
) -> None:
    """Long-short, Zero-CFG, Anti-CFG, written out: what the loss sees of teacher and fake score."""
    world = diffusion_world()
    b, t = world.batch(8), torch.full((8,), 0.5)
    method = SiDFewStep(world.student(), world.teachers[0], **values)
    method.critic = world.student(3).eval()
    (tc, tu), (fc, fu) = ((m(b.x, t, b.y).x0, m(b.x, t).x0) for m in (method.teacher, method.critic))
    real = tu + teacher_w * (tc - tu)
    fake = fu if fake_w is None else fu + fake_w * (fc - fu)
    gap, apart = real - fake, (b.x - real).abs().flatten(1).mean(1)
    wanted = ((gap * ((real - b.x) - gap)).flatten(1).sum(1) / apart).mean()
    labels = b.y if told else torch.full_like(b.y, -1)
    assert torch.allclose(method.fisher(b.x, b.x, t, b.y, labels), wanted, rtol=1e-4)


def test_the_discriminator_needs_data_and_learns_to_tell() -> None:
    torch.manual_seed(0)
    method = SiDFewStep(mlp(16, 2), mlp(16, 2), gan=1.0, gan_critic=1.0, steps=1)
    batch = Samples(torch.randn(256, 2) + 4, torch.full((256,), -1), torch.arange(256))
    adam = torch.optim.Adam(method.players()["critic"], lr=1e-2)
    for k in range(80):
        critic, student = method.updates(batch, Clock(k, 80))
        adam.zero_grad()
        critic.terms["discriminator"].backward()
        adam.step()
    assert set(student.terms) == {"fisher", "gan"}
    with torch.no_grad():
        fake, real = (method.logits(*method.noised(x), batch.y).mean() for x in (method.generate(batch), batch.x))
    assert float(real) > float(fake) + 1
    with pytest.raises(InputError, match="guidance"):
        SiDFewStep(mlp(16, 2), mlp(16, 2), fake_guidance=-0.5)
