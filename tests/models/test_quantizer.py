"""The quantiser and the points' gradient, against weight-by-weight loops."""

import numpy as np
import pytest
import torch

from limbeck.models.quantizer import Points, nearest, scale, uniform


def slow(w: np.ndarray, points: np.ndarray, bucket: int) -> tuple[np.ndarray, np.ndarray]:
    """Bucket by bucket and weight by weight: Q(w, p), and which point each weight takes."""
    flat, out, chosen = w.ravel(), [], []
    for start in range(0, len(flat), bucket):
        part = flat[start : start + bucket]
        low, wide = part.min(), part.max() - part.min()
        for v in part:
            k = int(np.abs((v - low) / (wide or 1) - points).argmin())
            chosen.append(k)
            out.append(wide * points[k] + low)
    return np.array(out).reshape(w.shape), np.array(chosen)


@pytest.mark.parametrize(("bits", "bucket"), [(1, 7), (2, 256), (4, 20)])
def test_weights_go_to_the_nearest_point_of_their_bucket(bits: int, bucket: int) -> None:
    torch.manual_seed(0)
    w = torch.randn(9, 5, 3, dtype=torch.float64)
    expected, _ = slow(w.numpy(), np.linspace(0, 1, 2**bits), bucket)
    np.testing.assert_allclose(uniform(w, bits, bucket).numpy(), expected, atol=1e-12)
    points = torch.rand(2**bits, dtype=torch.float64)  # in no order
    np.testing.assert_allclose(
        nearest(w, points, bucket).numpy(), slow(w.numpy(), points.numpy(), bucket)[0], atol=1e-12
    )
    for part in uniform(w.float(), bits, bucket).flatten().split(bucket):
        assert len(part.unique()) <= 2**bits
    same = torch.full((3, 4), 0.3)
    assert torch.equal(uniform(same, bits, bucket), same)


def test_a_point_collects_the_scaled_gradients_of_its_weights() -> None:
    torch.manual_seed(0)
    w, bucket = torch.randn(30, 11, dtype=torch.float64), 64
    points = torch.linspace(0, 1, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(30, 11, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weight * nearest(w, points, bucket)).sum(), points)
    _, chosen = slow(w.numpy(), points.detach().numpy(), bucket)
    alpha = scale(w, bucket)[1].flatten().repeat_interleave(bucket)[: w.numel()].numpy()
    expected = [(alpha * weight.numpy().ravel())[chosen == j].sum() for j in range(4)]
    np.testing.assert_allclose(gradient.numpy(), expected)
    quantiles = np.quantile(scale(w, bucket)[0].flatten()[: w.numel()].numpy(), np.linspace(0, 1, 4))
    np.testing.assert_allclose(Points(w, 2, bucket).points.detach().numpy(), quantiles, rtol=1e-6)
