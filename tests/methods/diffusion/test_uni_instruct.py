"""Uni-Instruct: the three-part gradient by quadrature, reverse KL is SiD, the stages of a run."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.losses.ratio import Divergence, weights
from limbeck.methods.diffusion import uni_instruct
from limbeck.methods.diffusion.sid import SiD
from limbeck.methods.diffusion.uni_instruct import UniInstruct
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.path import Flow
from limbeck.models.tiny_denoiser import mlp

TIME, M, S = 0.5, 0.2, 0.8
ALPHA, SIGMA = 1 - TIME, TIME


def on_a_line(means: list[float], std: float) -> GaussianMixture:
    made = GaussianMixture(torch.tensor(means, dtype=torch.float64)[:, None], std, path=Flow())
    made.weights = made.weights.double()
    return made


TEACHER = on_a_line([-1.0, 0.9], 0.5)


def integral(m: float, divergence: Divergence) -> float:
    """``E_{p_t} h(r) ||y_fake - y_real||^2`` for the generator N(m, S^2), on a grid of x_t."""
    x = torch.linspace(-7, 7, 4001, dtype=torch.float64)[:, None]
    t, own = torch.full((len(x),), TIME, dtype=torch.float64), on_a_line([m], S)
    p, q = own.log_density(x, t), TEACHER.log_density(x, t)
    gap = (own(x, t) - TEACHER(x, t))[:, 0]
    return float((p.exp() * weights(divergence, (q - p).exp()).h * gap.square()).sum() * (x[1] - x[0]))


@pytest.mark.parametrize("divergence", get_args(Divergence))
def test_the_three_parts_are_the_gradient(divergence: Divergence, monkeypatch: pytest.MonkeyPatch) -> None:
    """G(z) = m + S z on the line, an exact fake score and an exact ratio: half the slope in m of the integral."""
    monkeypatch.setattr(uni_instruct, "distance", lambda x, real, floor: torch.ones(len(x), 1, dtype=x.dtype))
    monkeypatch.setattr(uni_instruct, "discriminator_of", lambda model: torch.nn.Identity())
    nodes = torch.linspace(-6, 6, 241, dtype=torch.float64)
    z, eps = (n.reshape(-1, 1) for n in torch.meshgrid(nodes, nodes, indexing="ij"))
    weight = torch.exp(-(z.square() + eps.square()) / 2)[:, 0]
    method = UniInstruct(mlp(8, 1, shape=(1,)), exact(TEACHER), sampling=True)
    own = on_a_line([M], S)
    method.critic = exact(own)
    at = torch.tensor(M, dtype=torch.float64, requires_grad=True)
    x = at + S * z
    x_t, t = ALPHA * x + SIGMA * eps, torch.full((len(z),), TIME, dtype=torch.float64)
    with torch.no_grad():
        r = (TEACHER.log_density(x_t, t) - own.log_density(x_t, t)).exp()
    loss = method.unified(x, x_t, t, torch.full((len(z),), -1), r, divergence=divergence)
    (slope,) = torch.autograd.grad((weight * loss).sum() / weight.sum(), at)
    wanted = (integral(M + 1e-4, divergence) - integral(M - 1e-4, divergence)) / 2e-4 / 2
    wanted /= float(weights(divergence, r).h.mean())  # the step's size, the same for all parts
    assert float(slope) == pytest.approx(wanted, rel=1e-3) and wanted != 0


def test_reverse_kl_is_sid_at_alpha_one() -> None:
    torch.manual_seed(0)
    teacher, student = mlp(16, 2), mlp(16, 2)
    one, other = UniInstruct(student, teacher), SiD(student, teacher, alpha=1.0)
    one.critic = other.critic = mlp(16, 2)
    x, y = torch.randn(16, 2, requires_grad=True), torch.full((16,), -1)
    slopes: list[Tensor] = []
    torch.manual_seed(1)
    slopes.append(torch.autograd.grad(other.fisher(x, y), x)[0])
    torch.manual_seed(1)
    x_t, t = one.noised(x)
    loss = one.unified(x, x_t, t, y, torch.rand(16) + 0.5, divergence="reverse_kl").mean()
    slopes.append(torch.autograd.grad(loss, x)[0])
    assert torch.equal(*slopes) and float(slopes[0].abs().max()) > 0


def test_the_generator_waits_then_begins_as_sid(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    unified = UniInstruct.unified

    def watched(self: UniInstruct, *inputs: Tensor, divergence: Divergence) -> Tensor:
        seen.append(divergence)
        return unified(self, *inputs, divergence=divergence)

    monkeypatch.setattr(UniInstruct, "unified", watched)
    method = UniInstruct(mlp(16, 2), mlp(16, 2), still_until=0.25, plain_until=0.5, divergence="jensen_shannon")
    batch = Samples(torch.randn(8, 2), torch.full((8,), -1), torch.arange(8))
    told = [[u.player for u in method.updates(batch, Clock(k, 8))] for k in range(8)]
    assert told == [["critic"]] * 2 + [["critic", "student"]] * 6
    assert seen == ["reverse_kl"] * 2 + ["jensen_shannon"] * 4
