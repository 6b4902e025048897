"""PSO: log 2 where nothing was tuned yet, the winner gets likelier, clipped ratios have no gradient."""

import math

import pytest
import torch

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.pso import PSO
from limbeck.models.path import Flow
from limbeck.models.tiny_denoiser import mlp

TIMES = (1.0, 0.6, 0.3)


def batch(n: int = 64) -> Samples:
    return Samples(torch.randn(n, 2), torch.full((n,), -1), torch.arange(n))


def method(**values) -> PSO:
    torch.manual_seed(0)
    teacher = mlp(16, 2)
    return PSO(trainable(teacher), teacher, lambda x, y: x[:, 0], times=TIMES, **values)


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_generator_that_is_its_reference_has_log_two(mode: str) -> None:
    updates = list(method(mode=mode).updates(batch(), Clock(0, 1)))
    assert len(updates) == (
        len(TIMES) - 1 if mode == "online" else 1
    )  # the last step draws nothing, so it has no density
    for update in updates:
        assert float(update.terms["preference"].detach()) == pytest.approx(math.log(2), abs=1e-6)


def test_descent_makes_the_winners_step_likelier_and_the_losers_less() -> None:
    made, b = method(), batch(256)
    (a, first), (c, second) = made.run(b.x, None), made.run(b.x, None)
    wins = first[:, 0] >= second[:, 0]
    pair = [torch.where(wins[:, None], p, q) for p, q in ((a[0], c[0]), (a[1], c[1]))]
    lost = [torch.where(wins[:, None], q, p) for p, q in ((a[0], c[0]), (a[1], c[1]))]

    def margin() -> torch.Tensor:
        return (made.log_ratio(*pair, (1.0, 0.6), None) - made.log_ratio(*lost, (1.0, 0.6), None)).mean()

    loss = -torch.nn.functional.logsigmoid(made.beta * margin())
    before = float(margin().detach())
    slopes = torch.autograd.grad(loss, list(made.student.parameters()), allow_unused=True)
    with torch.no_grad():
        for p, g in zip(made.student.parameters(), slopes, strict=True):
            if g is not None:
                p -= 1e-3 * g
    assert float(margin().detach()) > before


def test_a_steps_density_is_the_gaussians_and_a_clipped_ratio_is_flat() -> None:
    made, x_t, x_s = method(), torch.randn(8, 2), torch.randn(8, 2)
    mean = 0.4 * made.student(x_t, 1.0).x0
    exact = torch.distributions.Normal(mean, 0.6).log_prob(x_s).mean(1)
    found = made.log_density(made.student, x_t, x_s, (1.0, 0.6), None)
    constant = -math.log(0.6) - math.log(2 * math.pi) / 2
    torch.testing.assert_close(found + constant, exact)
    assert isinstance(made.student.path, Flow)
    with torch.no_grad():
        made.student.net.leave.bias += 30.0
    ratio = made.log_ratio(x_t, x_s, (1.0, 0.6), None)
    assert ((ratio >= math.log(0.9) - 1e-6) & (ratio <= math.log(1.1) + 1e-6)).all()
    slopes = torch.autograd.grad(ratio.sum(), [made.student.net.leave.bias])
    assert float(slopes[0].abs().max()) == 0


def test_no_times_are_one_line() -> None:
    with pytest.raises(InputError, match=r"method.times"):
        PSO(mlp(8, 1), mlp(8, 1))
