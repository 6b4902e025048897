"""Adapters for guidance: they begin as the base, never touch it, and the stored states are the guided trajectory's."""

from functools import partial

import torch

from limbeck import fit
from limbeck.core.schedule import Clock
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.adapter_guidance_distillation import (
    AdapterGuidanceDistillation,
    Guidances,
    Recorded,
    record,
)  # fmt: skip
from limbeck.models.denoiser import Guided, guide
from limbeck.models.output_adapter import OutputAdapters, blocks_of
from limbeck.models.sampling import Ode
from tests.worlds import diffusion_world

Y = torch.arange(8) % 3


def method(**values: float) -> AdapterGuidanceDistillation:
    teacher = diffusion_world().teachers[0]
    student = trainable(teacher)
    student.net = OutputAdapters(student, 32, blocks_of(student.net))
    return AdapterGuidanceDistillation(student, teacher, **values)  # type: ignore[arg-type]


def test_a_new_adapter_changes_nothing_so_the_loss_at_scale_one_is_zero() -> None:
    made = method()
    rows = record(made.teacher, Y, torch.ones(8), 5)
    assert float(made.loss(rows, Clock(0, 1))["guided"].detach()) < 1e-10
    rows = record(made.teacher, Y, torch.full((8,), 4.0), 5)
    assert float(made.loss(rows, Clock(0, 1))["guided"].detach()) > 1e-4


def test_what_is_stored_is_the_guided_trajectory() -> None:
    made = method()
    torch.manual_seed(4)
    noise = made.teacher.noise(8)
    torch.manual_seed(4)
    rows = record(made.teacher, Y, torch.full((8,), 3.0), 6)
    assert len(rows.x) == 48 and torch.equal(rows.x[:8], noise)
    last = Guidances(*(part[-8:] for part in rows))
    end = guide(made.teacher, last.x, last.t, last.y, last.w).x0
    with torch.no_grad():
        torch.testing.assert_close(end, Ode(6)(Guided(made.teacher, 3.0), noise, Y), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(rows.eps[-8:], guide(made.teacher, last.x, last.t, last.y, last.w).eps)


def test_the_base_stays_and_guided_states_are_learnt() -> None:
    torch.manual_seed(0)
    made = method()
    held = {k: v.clone() for k, v in made.student.net.net.state_dict().items()}
    rows = record(made.teacher, torch.arange(60) % 3, 1 + 5 * torch.rand(60), 20)
    before = float(made.loss(rows, Clock(0, 1))["guided"].detach())
    fit(made, Recorded(rows, 64, 0), partial(torch.optim.Adam, lr=3e-3), steps=150)
    assert float(made.loss(rows, Clock(0, 1))["guided"].detach()) < 0.5 * before
    assert all(torch.equal(v, made.student.net.net.state_dict()[k]) for k, v in held.items())
    assert sum(p.numel() for p in made.players()["student"]) > 0


def test_the_scale_is_heard() -> None:
    made = method()
    for adapter in made.student.net.adapters:
        torch.nn.init.normal_(adapter[-1].weight)
    x, t = torch.randn(4, 1, 4, 4), torch.full((4,), 0.5)
    one, six = (made.student(x, t, Y[:4], made.told(torch.full((4,), w))).eps for w in (1.0, 6.0))
    assert float((one - six).abs().max()) > 1e-3
