"""LoRA guidance distillation: zero at a scale of 1, only adapters learn, one merged call says what two said."""

from functools import partial

import pytest
import torch

from limbeck import fit
from limbeck.core.schedule import Clock
from limbeck.errors import InputError
from limbeck.methods.diffusion.lora_guidance_distillation import LoRAGuidanceDistillation
from limbeck.models.denoiser import guide
from limbeck.models.low_rank import adapted, merged
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world


def test_at_a_scale_of_one_there_is_nothing_to_learn_and_elsewhere_there_is() -> None:
    world = diffusion_world()
    for w, zero in ((1.0, True), (3.0, False)):
        method = LoRAGuidanceDistillation(adapted(world.teachers[0], 4), world.teachers[0], guidance=w)
        assert (float(method.loss(world.batch(16), Clock(0, 1))["guided"].detach()) < 1e-10) is zero


def test_adapters_alone_learn_and_one_merged_call_comes_near_two() -> None:
    torch.manual_seed(0)
    world = diffusion_world()
    teacher = world.teachers[0]
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    method = LoRAGuidanceDistillation(adapted(teacher, 8), teacher, guidance=3.0)
    learning = [n for n, p in method.student.named_parameters() if p.requires_grad]
    assert learning and all("lora_" in name for name in learning)
    x, y, t = torch.randn(64, 1, 4, 4), torch.arange(64) % 3, torch.full((64,), 0.5)
    wanted = guide(teacher, x, t, y, 3.0).eps

    def apart(model) -> float:
        return float((model(x, t, y).eps - wanted).square().mean().detach())

    start = apart(method.student)
    fit(method, world.data, partial(torch.optim.Adam, lr=1e-2), steps=150)
    one = merged(method.student)
    assert apart(one) == pytest.approx(apart(method.student), rel=1e-3) and apart(one) < 0.5 * start
    assert not any("lora" in name for name, _ in one.named_parameters())
    assert all(torch.equal(v, teacher.state_dict()[k]) for k, v in before.items()), "merging touched the shared weights"


def test_a_range_of_scales_is_told() -> None:
    world = diffusion_world()
    student = adapted(world.teachers[0].told(1), 4)
    method = LoRAGuidanceDistillation(student, world.teachers[0], guidance=1.0, guidance_max=5.0)
    assert student.sampler.extra == (1.0,)
    assert float(method.loss(world.batch(16), Clock(0, 1))["guided"].detach()) > 0


def test_an_unconditional_teacher_is_refused() -> None:
    with pytest.raises(InputError, match="needs a conditional teacher"):
        LoRAGuidanceDistillation(adapted(mlp(8, 1), 2), mlp(8, 1))
