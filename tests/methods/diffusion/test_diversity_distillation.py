"""Diversity distillation: the relay is the two samplers in turn, across paths too, and control is addition."""

import pytest
import torch

from limbeck.errors import InputError
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.diversity_distillation import (
    DiversityDistillation,
    intentions,
    matched,
    transfer_control,
)  # fmt: skip
from limbeck.models.denoiser import Denoiser
from limbeck.models.gaussian_mixture import exact, ring
from limbeck.models.path import VP, Flow, Trig
from limbeck.models.sampling import FewStep, Ode, solve
from limbeck.models.tiny_denoiser import mlp

TIMES = (1.0, 0.75, 0.5, 0.25)


def student(model: Denoiser, gamma: float = 0.0) -> Denoiser:
    model.sampler = FewStep(TIMES, gamma)
    return model


def test_the_relay_is_the_base_and_then_the_student() -> None:
    torch.manual_seed(0)
    base, own, noise = mlp(16, 2, classes=2), student(mlp(16, 2, classes=2)), torch.randn(8, 2)
    y = torch.arange(8) % 2
    method = DiversityDistillation(own, base, start=2, guidance=1.0)
    with torch.no_grad():
        there = solve(base, noise, [1.0, 0.75, 0.5], y)[-1]
        expected = solve(own, there, [0.5, 0.25, 0.0], y)[-1]
    torch.testing.assert_close(own.generate(noise, y), expected)
    assert method.student.sampler.nfe == 2 + 2
    assert DiversityDistillation(student(mlp(8, 1, classes=2)), base).student.sampler.nfe == 2 + 3  # guided is twice


def test_a_model_and_itself_on_another_path_relay_as_if_it_were_one() -> None:
    """One exact mixture on two paths: the hand-over is in the student's units."""
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    base, own = (exact(ring(8, std=0.2, path=path)) for path in (Trig(), Flow()))
    one = exact(ring(8, std=0.2)).generate(noise, sampler=Ode(200))
    assert float(Flow().ratio(torch.tensor(matched(0.4, VP(), Flow())))) == pytest.approx(
        float(VP().ratio(torch.tensor(0.4))), rel=1e-4
    )
    times = tuple(k / 200 for k in range(200, 0, -1))
    own.sampler = FewStep(times, 0.0)
    DiversityDistillation(own, base, start=100, steps=200, guidance=1.0)
    assert float((own.generate(noise) - one).square().mean().sqrt()) < 0.02


def test_intentions_end_in_the_sample_and_control_moves_by_addition() -> None:
    torch.manual_seed(0)
    base, noise = mlp(16, 2), torch.randn(4, 2)
    seen = intentions(base, noise, TIMES)
    torch.testing.assert_close(seen[-1], base.generate(noise, sampler=Ode(4)))
    tuned, other = trainable(base), mlp(16, 2)
    with torch.no_grad():
        tuned.net.enter.bias += 1.0
    moved = transfer_control(other, base, tuned, 0.5)
    torch.testing.assert_close(moved.net.enter.bias, other.net.enter.bias + 0.5)
    torch.testing.assert_close(moved.net.leave.weight, other.net.leave.weight)
    with pytest.raises(InputError, match="another shape"):
        transfer_control(mlp(8, 2), base, tuned)


def test_a_start_beyond_the_students_steps_is_one_line() -> None:
    with pytest.raises(InputError, match="leaves the student no step"):
        DiversityDistillation(student(mlp(8, 1)), mlp(8, 1), start=4)
