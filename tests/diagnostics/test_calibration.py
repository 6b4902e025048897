import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.diagnostics.calibration import ece, entropy_gap, fit_temperature, reliability
from limbeck.errors import InputError


def predictions(seed: int, n: int = 400, k: int = 5, sharpness: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(n, k, generator=draw)
    return logits.log_softmax(1), torch.randint(k, (n,), generator=draw)


def slow_ece(log_probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """A loop over bins and samples, written from the definition."""
    total = 0.0
    for i in range(bins):
        sure: list[float] = []
        right: list[float] = []
        for row, label in zip(log_probabilities, labels, strict=True):
            top = float(np.exp(row.max()))
            if i / bins < top <= (i + 1) / bins:
                sure.append(top)
                right.append(float(row.argmax() == label))
        if sure:
            total += len(sure) / len(labels) * abs(sum(right) / len(right) - sum(sure) / len(sure))
    return total


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), bins=st.integers(1, 20))
def test_ece_equals_a_slow_reference(seed: int, bins: int) -> None:
    p, y = predictions(seed, n=60)
    assert ece(p, y, bins) == pytest.approx(slow_ece(p.double().numpy(), y.numpy(), bins), abs=1e-9)


def test_ece_of_known_cases() -> None:
    sure = torch.tensor([[0.0, -math.inf]] * 4)
    assert ece(sure, torch.tensor([0, 0, 0, 0])) == 0.0
    assert ece(sure, torch.tensor([1, 1, 1, 1])) == 1.0
    half = torch.full((4, 2), math.log(0.5))
    assert ece(half, torch.tensor([0, 0, 1, 1])) == pytest.approx(0.0, abs=1e-9)


def test_a_right_edge_belongs_to_its_bin() -> None:
    """Top probability 0.5 of two bins lies in (0, 0.5], not in (0.5, 1]."""
    p = torch.tensor([[0.5, 0.5], [0.6, 0.4]], dtype=torch.float64).log()
    assert [count for _, _, count in reliability(p, torch.tensor([0, 0]), bins=2)] == [1, 1]


def test_reliability_covers_every_sample_once_and_averages_to_the_accuracy() -> None:
    p, y = predictions(1)
    bins = reliability(p, y)
    assert sum(count for _, _, count in bins) == len(y)
    accuracy = sum(right * count for _, right, count in bins) / len(y)
    assert accuracy == pytest.approx(float((p.argmax(1) == y).double().mean()))
    assert [sure for sure, _, _ in bins] == sorted(sure for sure, _, _ in bins)


@pytest.mark.parametrize("true_tau", [0.4, 1.0, 3.0])
def test_temperature_is_found_when_labels_are_drawn_at_it(true_tau: float) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20_000, 4, generator=draw)
    y = torch.multinomial((logits / true_tau).softmax(1), 1, generator=draw)[:, 0]
    assert fit_temperature(logits.log_softmax(1), y) == pytest.approx(true_tau, rel=0.05)


def test_temperature_is_the_minimum_of_a_grid_search() -> None:
    p, y = predictions(3, sharpness=4.0)
    y = torch.where(torch.rand(len(y), generator=torch.Generator().manual_seed(1)) < 0.5, p.argmax(1), y)
    grid = torch.logspace(-2, 2, 4001, dtype=torch.float64)
    nll = torch.stack([torch.nn.functional.cross_entropy(p.double() / tau, y) for tau in grid])
    assert fit_temperature(p, y) == pytest.approx(float(grid[nll.argmin()]), rel=3e-3)


def test_temperature_of_a_classifier_that_is_always_right_or_wrong_stays_in_range() -> None:
    p, _ = predictions(4)
    assert fit_temperature(p, p.argmax(1)) == pytest.approx(0.01, rel=1e-3)
    assert fit_temperature(p, p.argmin(1)) == pytest.approx(100, rel=1e-3)


def test_temperature_fitting_works_under_no_grad_and_does_not_touch_its_input() -> None:
    p, y = predictions(5)
    before = p.clone()
    with torch.no_grad():
        fit_temperature(p, y)
    assert torch.equal(p, before) and p.grad is None


def test_entropy_gap_sign_and_value() -> None:
    uniform = torch.full((3, 4), -math.log(4.0))
    sure = torch.tensor([[0.0, -math.inf, -math.inf, -math.inf]] * 3)
    assert entropy_gap(sure, uniform) == pytest.approx(-math.log(4.0))
    assert entropy_gap(uniform, sure) == pytest.approx(math.log(4.0))


@pytest.mark.parametrize("labels", [torch.tensor([0, 5]), torch.tensor([-1, 0]), torch.tensor([0])])
def test_bad_labels_are_refused(labels: torch.Tensor) -> None:
    with pytest.raises(InputError):
        ece(torch.zeros(2, 5).log_softmax(1), labels)
