"""Weighted self-distillation: kernel ridge as the oracle, for the formulas and for the method itself."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import nn

from limbeck.core.fit import fit
from limbeck.core.method import Clock
from limbeck.data.batches import Images
from limbeck.methods.self_distillation._ridge import best_weight, ridge_generations
from limbeck.methods.self_distillation.weighted_self_distillation import WeightedSelfDistillation


def sine(rows: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    x = torch.rand(rows, 1, generator=drawn, dtype=torch.float64)
    y = torch.sin(2 * torch.pi * x) + 0.3 * torch.randn(rows, 1, generator=drawn, dtype=torch.float64)
    return x, torch.exp(-((x - x.T) ** 2) / (2 * 0.1**2)), y


def test_the_limit_is_ridge_with_lambda_over_the_labels_weight() -> None:
    _, K, y = sine()
    last = ridge_generations(K, y, 1e-2, [0.6] * 300)[-1]
    limit = torch.linalg.solve(K + 1e-2 / 0.4 * torch.eye(len(K), dtype=K.dtype), K) @ y
    assert torch.allclose(last, limit, atol=1e-8)


def test_without_labels_every_generation_shrinks_to_nothing() -> None:
    _, K, y = sine()
    norms = [float(f.norm()) for f in ridge_generations(K, y, 1.0, [1.0] * 400)]
    assert all(b < a for a, b in pairwise(norms)) and norms[-1] < 0.05 * norms[0]


def test_the_closed_form_weight_is_the_grids_minimum() -> None:
    _, K, y = sine()
    train, held = slice(0, 40), slice(40, 60)
    lam = 1e-4
    inverse = torch.linalg.inv(K[train, train] + lam * torch.eye(40, dtype=K.dtype))

    def predict(target: torch.Tensor) -> torch.Tensor:
        return K[held, train] @ inverse @ target

    y_1 = K[train, train] @ inverse @ y[train]
    first, pure = predict(y[train]), predict(y_1)
    w = best_weight(y[held], first, pure)
    errors = [
        float((predict((1 - v) * y[train] + v * y_1) - y[held]).square().mean())
        for v in torch.linspace(0, 1, 21).tolist()
    ]
    found = float((predict((1 - w) * y[train] + w * y_1) - y[held]).square().mean())
    assert found <= min(errors) + 1e-6


def test_the_method_trained_to_the_end_is_the_closed_form() -> None:
    """Linear students on one-hot labels with weight decay: gradient descent reaches ridge, generation by generation."""
    torch.manual_seed(0)
    x, labels = torch.randn(30, 4, dtype=torch.float64), torch.arange(30) % 3
    batch = Images(x, labels, torch.arange(30))
    y, lam, w = nn.functional.one_hot(labels).double(), 3.0, 0.7
    oracle = ridge_generations(x @ x.T, y, lam, [w, w])
    outputs = None
    for expected in oracle:
        method = WeightedSelfDistillation(nn.Linear(4, 3, bias=False, dtype=torch.float64), outputs, w=w)
        # mean over 30 samples + decay/2 ||W||^2 is 1/30 of ||XW - Y||^2 + lambda ||W||^2 when decay = 2 lambda / 30
        fit(method, [batch], partial(torch.optim.SGD, lr=0.1, weight_decay=2 * lam / 30), steps=400)
        outputs = method.student(x).detach()
        assert torch.allclose(outputs, expected, atol=1e-6)
        assert float(method.loss(batch, Clock(0, 1))) > 0
