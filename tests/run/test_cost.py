import time

import pytest
import torch
from torch import Tensor, nn

from limbeck.run.cost import bytes_of, cost


def small() -> nn.Sequential:
    """3x8x8 images: a 3x3 convolution to 4 maps, batch norm, a linear layer 256 -> 10."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))


def test_counts_equal_a_hand_count() -> None:
    found = cost(small(), torch.zeros(2, 3, 8, 8))
    weights = (4 * 3 * 9 + 4) + (4 + 4) + (256 * 10 + 10)
    assert found.parameters == weights
    assert found.flops == 2 * (4 * 8 * 8 * 3 * 9) + 2 * (256 * 10), "one image, a multiply-add as two"
    assert found.memory_mb == pytest.approx((4 * weights + 4 * (4 + 4) + 8) / 1e6), "float32, statistics, one int64"


def test_attention_is_counted() -> None:
    class Attend(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    found = cost(Attend(), torch.zeros(1, 2, 16, 8))
    assert found.flops == 2 * (2 * 16 * 16 * 8) * 2  # two heads: queries with keys, then weights with values


def test_attention_is_counted_on_the_fast_path_too() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    projections, attention = 2 * 16 * 8 * 8 * 4, 2 * (2 * 16 * 16 * 4) * 2
    assert torch.backends.mha.get_fastpath_enabled()
    assert cost(Attend(), torch.zeros(1, 16, 8)).flops == projections + attention
    assert torch.backends.mha.get_fastpath_enabled(), "left as it was"


def test_latency_is_the_time_of_one_image_and_measuring_is_short() -> None:
    class Sleeps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert len(x) == 1
            time.sleep(0.01)
            return x

    begun = time.perf_counter()
    found = cost(Sleeps(), torch.zeros(2, 3, 8, 8))
    assert 10.0 <= found.latency_ms < 40.0
    assert time.perf_counter() - begun < 2.0


def test_the_model_is_left_as_it_was() -> None:
    model = small().train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    cost(model, torch.rand(2, 3, 8, 8))
    assert all(m.training for m in model.modules())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_shared_weights_count_once() -> None:
    layer = nn.Linear(10, 10)
    assert bytes_of(nn.Sequential(layer, layer)) == 4 * 110
    assert bytes_of(nn.Linear(10, 10, dtype=torch.bfloat16)) == 2 * 110
