"""TAID (Shing et al., 2025): the moving target, and the controller that moves it."""

import math

import pytest
import torch

from limbeck import Clock, fit
from limbeck.losses.divergence import kl
from limbeck.methods.language.taid import TAID
from tests.worlds import SGD, language_world


def terms(method: TAID, clock: Clock) -> tuple[torch.Tensor, torch.Tensor]:
    update = next(iter(method.updates(language_world().batch(6), clock)))
    return update.terms["taid"], update.logs["t"]


@pytest.mark.parametrize("t", [0.3, 1.0])
def test_the_target_mixes_logits_and_only_the_student_of_the_divergence_learns(t: float) -> None:
    world = language_world()
    [teacher], student, batch = world.teachers, world.student(), world.batch(6)
    found, _ = terms(TAID(student, teacher, t_start=t), Clock(0, 9))
    z, y = (model(batch).logits()[batch.mask] for model in (student, teacher))
    target = torch.softmax((1 - t) * z + t * y, -1).detach()
    wanted = (target * (target.log() - z.log_softmax(-1))).sum(-1).mean()
    assert float(found) == pytest.approx(float(wanted), rel=1e-4)
    if t == 1:
        assert float(found) == pytest.approx(float(kl(y.log_softmax(-1), z.log_softmax(-1)).mean()), rel=1e-4)
    ours, theirs = (torch.autograd.grad(term, list(student.parameters())) for term in (found, wanted))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_at_t_0_nothing_pulls_and_the_two_measures_have_one_gradient() -> None:
    world = language_world()
    student = world.student()
    still, _ = terms(TAID(student, world.teachers[0], t_start=0.0), Clock(0, 9))
    assert max(float(g.abs().max()) for g in torch.autograd.grad(still, list(student.parameters()))) < 1e-6
    found = [terms(TAID(student, world.teachers[0], progress=name), Clock(0, 9))[0] for name in ("kl", "cross_entropy")]  # type: ignore[arg-type]
    assert float(found[1]) > float(found[0]) + 0.1, "the target's entropy"
    for a, b in zip(*(torch.autograd.grad(term, list(student.parameters())) for term in found), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_the_controller_follows_the_equations() -> None:
    world = language_world()
    method = TAID(world.student(), world.teachers[0], t_start=0.2, alpha=0.1, beta=0.9)
    t, m, losses = 0.2, 0.0, [2.0, 1.5, 1.6, 0.4]
    for n, loss in enumerate(losses):
        method.steer(torch.tensor(loss), Clock(n, 1000))
        if n:
            m = 0.9 * m + 0.1 * (losses[n - 1] - loss) / losses[n - 1]
            t = max(0.2 + 0.8 * n / 1000, t + 0.1 / (1 + math.exp(-m)) * (1 - t))
        assert float(method.t) == pytest.approx(t, rel=1e-5)
    method.steer(torch.tensor(0.4), Clock(999, 1000))
    assert float(method.t) == pytest.approx(0.2 + 0.8 * 0.999, rel=1e-5), "never behind the straight line"


def test_accumulated_parts_move_t_once_by_their_mean() -> None:
    world = language_world()
    method = TAID(world.student(), world.teachers[0])
    rows, seen = world.batch(8), list[float]()
    halves = [type(rows)(*(part[k : k + 4] for part in rows[:5])) for k in (0, 4)]
    for half in halves:
        run = method.updates(half, Clock(0, 9))
        seen.append(float(next(run).terms["taid"].detach()))
        with pytest.raises(StopIteration):
            run.send(half is halves[1])
    assert float(method.previous) == pytest.approx(sum(seen) / 2, rel=1e-5)
    fit(method, world.data, SGD, steps=3)
    assert float(method.t) > 0.4 + 0.6 / 3 and float(method.parts) == 0
