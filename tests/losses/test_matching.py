"""Matching: class means against a loop, distances zero at equality, gradients against their definitions."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.losses.matching import class_means, gradient_distance, mean_distance


@given(st.integers(0, 10**6), st.integers(1, 12))
def test_class_means_are_the_loops(seed: int, rows: int) -> None:
    drawn = torch.Generator().manual_seed(seed)
    f, y = torch.randn(rows, 2, 3, generator=drawn), torch.randint(0, 4, (rows,), generator=drawn)
    found = class_means(f, y, 4)
    for k in range(4):
        expected = f[y == k].mean(0) if (y == k).any() else torch.zeros(2, 3)
        torch.testing.assert_close(found[k], expected)


def test_mean_distance_forgets_order_and_counts_and_missing_classes() -> None:
    f, y = torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    order = torch.tensor([5, 0, 3, 1, 2, 4])
    torch.testing.assert_close(mean_distance(f, y, f[order], y[order], 4), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(mean_distance(f, y, f.repeat(2, 1), y.repeat(2), 3), torch.zeros(3), atol=1e-6, rtol=0)
    some = mean_distance(f, y, torch.zeros(1, 3), torch.tensor([1]), 3)
    torch.testing.assert_close(some, torch.tensor([0.0, float(f[2:4].mean(0).square().sum()), 0.0]))


def test_gradient_distances_are_their_definitions() -> None:
    real, made = [torch.randn(4, 3, 2, 2), torch.randn(4)], [torch.randn(4, 3, 2, 2), torch.randn(4)]
    expected = sum(
        1 - float(r.flatten() @ m.flatten() / r.norm() / m.norm()) for r, m in zip(real[0], made[0], strict=True)
    )
    torch.testing.assert_close(gradient_distance(real, made), torch.tensor(expected))
    mse = sum(float((r - m).square().sum()) for r, m in zip(real, made, strict=True))
    torch.testing.assert_close(gradient_distance(real, made, "mse"), torch.tensor(mse))
    torch.testing.assert_close(gradient_distance(real, [3 * r for r in real]), torch.tensor(0.0), atol=1e-5, rtol=0)
