"""Adaptive collaboration: the threshold is the student's percentile, only what is below goes to the teacher."""

import pytest
import torch

from limbeck.methods.diffusion._rewards import LabelEvidence
from limbeck.methods.diffusion.adaptive_teacher_student import AdaptiveTeacherStudent
from limbeck.models.gaussian_mixture import exact, ring
from limbeck.models.sampling import FewStep, Ode
from limbeck.models.tiny_denoiser import mlp


def method(percent: float, **values) -> AdaptiveTeacherStudent:
    torch.manual_seed(0)
    student, teacher = mlp(16, 2), exact(ring(8))
    student.sampler = FewStep((1.0,))
    made = AdaptiveTeacherStudent(student, teacher, lambda x, y: x[:, 0], percent=percent, steps=20, **values)
    made.calibrate()
    return made


def test_the_share_that_is_sent_is_the_percentile_and_the_rest_is_the_students() -> None:
    made = method(30.0)
    noise = torch.randn(2000, 2, generator=torch.Generator().manual_seed(5))
    own = made.student.generate(noise, sampler=FewStep((1.0,)))
    routed = made.student.generate(noise, generator=torch.Generator().manual_seed(1))
    changed = (routed != own).any(1)
    assert float(changed.float().mean()) == pytest.approx(0.3, abs=0.04)
    assert float(own[changed][:, 0].max()) < float(own[~changed][:, 0].min()) + 1e-6
    assert made.student.sampler.nfe == 1 + round(0.3 * 20)


@pytest.mark.parametrize("percent", [0.0, 100.0])
def test_at_the_ends_it_is_the_student_or_the_teacher(percent: float) -> None:
    made = method(percent, strategy="regenerate", solver="ddim")
    noise = torch.randn(64, 2, generator=torch.Generator().manual_seed(5))
    routed = made.student.generate(noise, generator=torch.Generator().manual_seed(1))
    if percent == 0:
        expected = made.student.generate(noise, sampler=FewStep((1.0,)))
        torch.testing.assert_close(routed, expected)
    else:
        fresh = torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
        expected = made.teacher.generate(fresh, sampler=Ode(20))
        assert float((routed == expected).all(1).float().mean()) > 0.95  # the best score of calibration is kept


def test_refinement_stays_near_the_students_sample_and_reaches_the_teachers_modes() -> None:
    near = method(100.0, rollback=0.1)
    x = ring(8).means[torch.arange(64) % 8] * 1.05
    refined = near.student.sampler.improved(x, None, torch.Generator().manual_seed(0))
    assert float((refined - x).norm(dim=1).max()) < 0.5
    assert float((torch.cdist(refined, ring(8).means).min(1).values < 0.25).float().mean()) > 0.95


def test_the_teachers_evidence_prefers_the_true_label_and_is_a_function() -> None:
    world = ring(8, classes=4)
    judge, (x, y) = LabelEvidence(exact(world)), world.sample(200, torch.Generator().manual_seed(0))
    right, wrong = judge(x, y), judge(x, (y + 2) % 4)
    assert float((right > wrong).float().mean()) > 0.95 and torch.equal(right, judge(x, y))
    torch.testing.assert_close(judge(x[:5], y[:5]), right[:5])
