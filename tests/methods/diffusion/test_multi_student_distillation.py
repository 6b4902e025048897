"""Multi-student distillation: every student sees its own classes alone, and a label is routed to one of them."""

from typing import Any

import pytest
import torch

from limbeck.errors import InputError
from limbeck.methods.diffusion.multi_student_distillation import MultiStudentDistillation as Multi
from limbeck.methods.diffusion.multi_student_distillation import only
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.routed import ByLabel, routed
from limbeck.models.tiny_denoiser import mlp
from tests.worlds import diffusion_world


def test_a_label_goes_to_one_student_and_a_row_costs_one() -> None:
    torch.manual_seed(0)
    experts = [mlp(8, 1, classes=3) for _ in range(2)]
    model = routed(experts, ByLabel([e.net for e in experts], torch.tensor([0, 1, 0])))
    x, y, rows = torch.randn(6, 2), torch.tensor([0, 1, 2, -1, 1, 0]), [0]
    forward = experts[0].net.forward
    model.net.nets[0].forward = lambda x, t, y, e: (rows.append(len(x)), forward(x, t, y, e))[1]
    made, own = model(x, 0.5, y).x0, torch.stack([e(x, 0.5, y).x0 for e in experts])
    assert torch.allclose(made, torch.where((y == 1)[:, None], own[1], own[0])) and rows[1] == 4
    (slope,) = torch.autograd.grad(model(x[1:2], 0.5, y[1:2]).x0.sum(), experts[0].net.enter.weight, allow_unused=True)
    assert slope is None


def test_each_student_sees_its_own_classes_alone() -> None:
    world, seen = diffusion_world(), dict[str, Any]()
    setting = world.setting()
    run = setting.fit

    def fit(method: Any, *, name: str = "fit", data: Any = None, steps: int = 3) -> None:
        labels = {int(y) for b in data for y in b.y} if data is not None else None
        seen[name] = (labels, steps, None if method.part is None else method.part.tolist())
        run(method, name=name, data=data, steps=steps)

    object.__setattr__(setting, "fit", fit)
    student = Multi.distil(setting, {"students": 2, "score_matching": 2.0})
    assert seen == {"score": (None, 6, None), "student-1": ({0, 1}, 3, [0, 1]), "student-2": ({2}, 3, [2])}
    assert student.net.owners.tolist() == [0, 0, 1, 0] and student.sampler.nfe == 1
    with pytest.raises(InputError, match="no sample"):
        only(setting.data, torch.tensor([7]))


def test_score_matching_is_zero_at_the_teacher_and_matches_its_clean_sample() -> None:
    world = diffusion_world()
    b = world.batch(16)
    assert float(Multi(world.teachers[0], world.teachers[0]).score(b)) == 0
    teacher = exact(GaussianMixture(torch.zeros(1, 2), 0.5))
    shifted = exact(GaussianMixture(torch.zeros(1, 2), 0.5))
    shifted.net.means += 1.0
    x = torch.randn(256, 2)
    torch.manual_seed(0)
    t = 0.02 + 0.96 * torch.rand(256)
    gap = 1 - (1 - t).square() * 0.25 / ((1 - t).square() * 0.25 + t.square())  # of the two means, at the same x_t
    torch.manual_seed(0)
    found = Multi(shifted, teacher).score(b._replace(x=x, y=torch.full((256,), -1)))
    assert abs(float(found) - float(gap.square().mean())) < 1e-5


def test_the_matching_step_leads_to_the_teacher() -> None:
    torch.manual_seed(0)
    method = Multi(mlp(16, 2), exact(GaussianMixture(torch.tensor([[2.0, 0.0]]), 0.5)), torch.tensor([0]))
    method.critic = exact(GaussianMixture(torch.zeros(1, 2), 0.5))
    x = (0.5 * torch.randn(512, 2)).requires_grad_()
    (slope,) = torch.autograd.grad(method.matching(x, torch.full((512,), -1)), x)
    assert float(slope[:, 0].mean()) < 0 and float(slope[:, 0].mean().abs()) > 5 * float(slope[:, 1].mean().abs())
