"""NKD and USKD (Yang et al., 2023): the label is left out of the others, and soft labels are constants."""

import math

import pytest
import torch
from torch import Tensor

from limbeck.losses.decoupled import nkd, uskd
from limbeck.losses.divergence import entropy, kl, soft_log
from limbeck.losses.targets import drop_label


def _logits(rows: int = 5, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    s, t = 2 * torch.randn(2, rows, classes, dtype=torch.float64)
    return s.requires_grad_(), t, torch.randint(classes, (rows,))


def _softmax(z: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in z)
    return [math.exp(v) / total for v in z]


def test_nkd_equals_a_slow_reference_without_the_label() -> None:
    (s, t, y), tau = _logits(), 3.0
    target, others = nkd(s, t, y, tau)
    for n, label in enumerate(y.tolist()):
        rest = [k for k in range(4) if k != label]
        ns, nt = (_softmax([float(z[n, k]) / tau for k in rest]) for z in (s.detach(), t))
        trust, own = (_softmax(z[n].tolist())[label] for z in (t, s.detach()))
        assert float(target[n]) == pytest.approx(-trust * math.log(own))
        assert float(others[n]) == pytest.approx(-(tau**2) * sum(p * math.log(q) for p, q in zip(nt, ns, strict=True)))


def test_the_others_know_nothing_of_the_label() -> None:
    s, t, y = _logits()
    _, others = nkd(s, t, y, 1.0)
    (gradient,) = torch.autograd.grad(others.sum(), s)
    assert gradient.gather(1, y[:, None]).abs().max() == 0
    assert gradient.abs().sum() > 0
    moved = (z.detach().scatter_add(1, y[:, None], torch.full((5, 1), 7.0, dtype=z.dtype)) for z in (s, t))
    torch.testing.assert_close(nkd(*moved, y, 1.0)[1], others.detach())


def test_the_others_are_the_divergence_plus_the_teachers_entropy() -> None:
    s, t, y = _logits()
    p, q = (soft_log(drop_label(z, y)) for z in (t, s))
    torch.testing.assert_close(nkd(s, t, y, 1.0)[1], kl(p, q) + entropy(p))


def test_uskd_equals_a_slow_reference_and_its_targets_are_constants() -> None:
    s, w, y = _logits(seed=1)
    target, ranks = uskd(s, w, y)
    own = [_softmax(row) for row in s.tolist()]
    weak = [_softmax(row) for row in w.tolist()]
    mean = sum(p[k] ** 2 for p, k in zip(own, y.tolist(), strict=True)) / len(own)
    soft = []
    for n, label in enumerate(y.tolist()):
        p, v, rest = own[n], weak[n], [k for k in range(4) if k != label]
        soft.append(1 + p[label] ** 2 - mean)
        assert float(target[n]) == pytest.approx(-soft[-1] * math.log(p[label]))
        order = sorted(rest, key=lambda k: -(v[k] / (1 - v[label]) + p[k] / (1 - p[label])))
        zipf = {k: (1 / (1 + order.index(k))) / (1 + 1 / 2 + 1 / 3) for k in rest}
        log_n = {k: math.log(p[k] / (1 - p[label])) for k in rest}
        assert float(ranks[n]) == pytest.approx(-sum(zipf[k] * log_n[k] for k in rest))
    (gradient,) = torch.autograd.grad(target.sum(), s)
    onehot = torch.nn.functional.one_hot(y, 4)
    torch.testing.assert_close(gradient, torch.tensor(soft).double()[:, None] * (s.detach().softmax(1) - onehot))
