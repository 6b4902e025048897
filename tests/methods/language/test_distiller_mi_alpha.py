"""The equations of Distiller's MI-alpha."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from limbeck.core.method import Clock
from limbeck.methods.language.distiller_mi_alpha import DistillerMIAlpha, mi_alpha
from tests.worlds import language_world


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_the_bound_is_the_papers(alpha: float) -> None:
    f, log_q = np.random.default_rng(0).normal(size=(5, 5)), np.random.default_rng(1).normal(size=5)
    joint, apart = [], []
    for j in range(5):  # y_j, with x_j among the x_i; and with the others alone, which do not know it
        joint.append(f[j, j] - math.log(alpha * np.exp(f[:, j]).mean() + (1 - alpha) * math.exp(log_q[j])))
        others = np.exp(np.delete(f[:, j], j))
        apart.append(others / (alpha * others.mean() + (1 - alpha) * math.exp(log_q[j])))
    slow = 1 + np.mean(joint) - np.mean(apart)
    found = mi_alpha(torch.tensor(f), torch.tensor(log_q), alpha)
    assert float(found) == pytest.approx(slow, rel=1e-9)
    if alpha == 1:
        infonce = math.log(5) - torch.nn.functional.cross_entropy(torch.tensor(f).T, torch.arange(5))
        assert float(found) == pytest.approx(float(infonce))


def test_it_saturates_at_log_k_for_alpha_1_and_is_higher_and_noisier_below() -> None:
    torch.manual_seed(0)
    rho, dims, k = 0.97, 6, 64
    truth = -dims / 2 * math.log(1 - rho**2)  # 8.5 nats, of jointly Gaussian x and y; log K is 4.2

    def estimate(alpha: float) -> float:
        x = torch.randn(k, dims, dtype=torch.float64)
        y = rho * x + math.sqrt(1 - rho**2) * torch.randn(k, dims, dtype=torch.float64)
        a, b = x[:, None], y[None]
        ratio = -((b - rho * a) ** 2) / (2 * (1 - rho**2)) + b**2 / 2  # log p(y | x) / p(y), the best critic
        return float(mi_alpha(ratio.sum(-1) + truth, torch.zeros(k, dtype=torch.float64), alpha))

    tight, loose = ([estimate(alpha) for _ in range(200)] for alpha in (0.02, 1.0))
    assert max(loose) <= math.log(k) + 1e-9 and np.mean(loose) > math.log(k) - 0.1
    assert math.log(k) + 0.5 < np.mean(tight) < truth + 0.5 and np.std(tight) > 3 * np.std(loose)


@pytest.mark.parametrize("intermediate", ["mi", "mse", "cosine"])
def test_features_of_matched_layers_and_drawn_words_reach_the_student_alone(intermediate: str) -> None:
    world = language_world()
    student, teacher, batch = world.student(), world.teachers[0], world.batch()
    method = DistillerMIAlpha(student, teacher, intermediate=intermediate, features=10, inner=2.0)
    seen: list[tuple[Tensor, Tensor]] = []
    own = method.apart
    method.apart = lambda critic, x, y: (seen.append((x, y)), own(critic, x, y))[1]  # type: ignore[method-assign]
    terms = method.loss(batch, Clock(0, 3))
    assert [(len(x), x.shape[1], y.shape[1]) for x, y in seen] == [(10, 16, 32), (10, 16, 32)]
    with torch.no_grad():
        _, theirs = method.read[1](teacher, batch)
        inside = [(h[batch.mask][:, None] == y).all(-1).any(0).all() for h, (_, y) in zip(theirs, seen, strict=True)]
        again = [own(c, x, y) for c, (x, y) in zip(method.critics, seen, strict=True)]
    assert all(inside), "only words to learn are compared"
    assert float(terms["inner"]) == pytest.approx(2 * float(sum(again)), rel=1e-4)
    terms["inner"].backward()
    assert student.get_submodule(student.blocks[0]).mlp.up_proj.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for name, p in method.critics.named_parameters())


def test_one_step_up_the_gradient_tells_more() -> None:
    world = language_world()
    method, batch = DistillerMIAlpha(world.student(), world.teachers[0], hard=0.0, soft=0.0), world.batch()
    torch.manual_seed(0)
    before = method.loss(batch, Clock(0, 3))["inner"]
    before.backward()
    with torch.no_grad():
        for p in method.parameters():
            if p.grad is not None:
                p -= 0.05 * p.grad
    torch.manual_seed(0)
    assert method.loss(batch, Clock(0, 3))["inner"] < before
