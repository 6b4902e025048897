"""Progressive distillation: one step to the target lands where two of the teacher's do; the rounds halve the steps."""

import math

import pytest
import torch

from limbeck.core.method import Method, Setting
from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.methods.diffusion.progressive_distillation import ProgressiveDistillation, in_one_step
from limbeck.models.denoiser import Denoised
from limbeck.models.gaussian_mixture import exact, ring
from limbeck.models.path import VP, Flow, Path, Trig
from limbeck.models.sampling import solve
from limbeck.models.tiny_denoiser import mlp


@pytest.mark.parametrize("path", [Flow(), Trig(), VP()])
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.75), (0.5, 0.25), (0.25, 0.0)])
def test_one_step_to_the_target_lands_where_two_steps_land(path: Path, t: float, s: float) -> None:
    torch.manual_seed(0)
    teacher, z = exact(ring(path=path)), torch.randn(64, 2)
    there, here = torch.full((64,), t), torch.full((64,), s)
    end = solve(teacher, z, [there, (there + here) / 2, here] if s else [t, t / 2, 0.0])[-1]
    x = in_one_step(path, z, there, end, here)
    eps = (z - path.alpha(there)[:, None] * x) / path.sigma(there)[:, None]
    torch.testing.assert_close(Denoised(x, eps, there, path).at(here), end, atol=2e-5, rtol=1e-4)
    assert float((x - teacher(z, there).x0).abs().max()) > 0.005, "two steps do see something else than one"


def test_the_loss_is_the_papers_for_one_sample_at_a_time() -> None:
    """Slow reference on the circle: the paper's two DDIM steps and the weights, number by number."""
    torch.manual_seed(0)
    teacher, student = exact(ring(path=Trig())), mlp(16, 2, path=Trig(), prediction="v")
    for weight in ("truncated_snr", "snr_plus_one"):
        method = ProgressiveDistillation(student, teacher, end=4, weight=weight)
        batch = Samples(torch.randn(32, 2), torch.full((32,), -1), torch.arange(32))
        torch.manual_seed(5)
        found = method.loss(batch, Clock(0, 1))["progressive"].detach()
        torch.manual_seed(5)
        steps, eps = torch.randint(1, 5, (32,)), torch.randn(32, 2)
        total = 0.0
        for i in range(32):
            t = float(steps[i]) / 4
            a, s = (lambda u: math.cos(u * math.pi / 2)), (lambda u: math.sin(u * math.pi / 2))
            z = start = a(t) * batch.x[i] + s(t) * eps[i]
            for now, then in ((t, t - 0.125), (t - 0.125, t - 0.25)):
                x = teacher(z[None], now).x0[0]
                z = a(then) * x + s(then) / s(now) * (z - a(now) * x)
            kept = s(t - 0.25) / s(t)
            target = (z - kept * start) / (a(t - 0.25) - kept * a(t))
            snr = (a(t) / s(t)) ** 2
            w = max(snr, 1.0) if weight == "truncated_snr" else snr + 1
            total += w * float((target - student(start[None], t).x0[0].detach()).square().mean())
        torch.testing.assert_close(float(found), total / 32, rtol=1e-4, atol=1e-5)


def test_rounds_halve_the_steps_and_teach_the_next() -> None:
    teacher, rounds = mlp(8, 2), list[tuple[str, int, Method]]()

    def fit(method: Method, *, name: str, steps: int) -> None:
        torch.nn.init.constant_(method.student.net.leave.bias, float(len(rounds)))  # what training did
        rounds.append((name, steps, method))

    setting = Setting(lambda: mlp(8, 2), [teacher], [], 10, fit)
    student = ProgressiveDistillation.distil(setting, {"end": 1, "start": 8})
    assert [(n, k) for n, k, _ in rounds] == [("4-steps", 10), ("2-steps", 20), ("1-steps", 20)]
    assert [m.teacher for _, _, m in rounds[1:]] == [m.student for _, _, m in rounds[:-1]]
    assert student is rounds[-1][2].student and student.sampler.nfe == 1
    assert not any(p.requires_grad for p in rounds[0][2].student.parameters())  # it teaches, and rests
    with pytest.raises(InputError, match="start"):
        ProgressiveDistillation.distil(setting, {"end": 3, "start": 8})
