"""Distances between sets of samples, against closed forms."""

import math

import pytest
import torch

from limbeck.diagnostics.generation import diversity, frechet, modes, precision_recall, sliced_wasserstein
from limbeck.models.gaussian_mixture import ring


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    torch.manual_seed(0)
    a = torch.randn(200_000, 3) * torch.tensor([1.0, 2.0, 0.5])
    b = torch.randn(200_000, 3) * torch.tensor([2.0, 1.0, 0.5]) + torch.tensor([3.0, 0.0, 0.0])
    assert frechet(a, b) == pytest.approx(9 + 1 + 1, rel=0.02)  # |m - n|^2 + sum (s - u)^2
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)


def test_sliced_wasserstein_of_a_shift() -> None:
    a = torch.randn(5000, 2, generator=torch.Generator().manual_seed(0))
    assert sliced_wasserstein(a, a + torch.tensor([1.0, 0.0]), 4096) == pytest.approx(math.sqrt(0.5), rel=0.05)
    assert sliced_wasserstein(a, a[torch.randperm(5000)]) == pytest.approx(0, abs=1e-6)
    assert sliced_wasserstein(a, a[:2500]) < 0.08


def test_modes_that_are_missing_are_counted() -> None:
    world = ring(8, std=0.05)
    x, _ = world.sample(4000, torch.Generator().manual_seed(0))
    assert modes(x, world.means, 0.05) == (8, pytest.approx(1.0, abs=0.01))
    right = x[x[:, 0] > 0.3]
    assert modes(right, world.means, 0.05)[0] == 3
    assert modes(torch.zeros(100, 2), world.means, 0.05) == (0, 0.0)


def test_precision_falls_with_outliers_and_recall_with_missing_modes() -> None:
    world = ring(8, std=0.05)
    a, _ = world.sample(1000, torch.Generator().manual_seed(0))
    b, _ = world.sample(1000, torch.Generator().manual_seed(1))
    precision, recall = precision_recall(a, b)
    assert precision > 0.85 and recall > 0.85
    precision, recall = precision_recall(a[a[:, 0] > 0.3], b)
    assert precision > 0.85 and recall < 0.5
    assert precision_recall(torch.randn(1000, 2), b)[0] < 0.3


def test_diversity_is_zero_where_all_of_a_class_look_alike() -> None:
    y = torch.tensor([0, 0, 1, 1])
    assert diversity(torch.tensor([[0.0], [0.0], [5.0], [5.0]]), y) == 0
    assert diversity(torch.tensor([[0.0], [1.0], [5.0], [7.0]]), y) == pytest.approx(1.5)
