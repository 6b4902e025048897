"""The residual networks of the paper, number by number, and that small networks learn."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limbeck.data.load import load_data
from limbeck.errors import InputError
from limbeck.models.load import NAMES, load_classifier
from limbeck.models.resnet import resnet

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_parameters_are_those_of_table_6(depth, millions):
    count = sum(p.numel() for p in resnet(depth, shape=(3, 32, 32), classes=10).parameters())
    assert round(count / 1e6, 2) == millions
    n = (depth - 2) // 6
    convs = 432 + 9 * (16 * 16 * 2 * n + 16 * 32 + 32 * 32 * (2 * n - 1) + 32 * 64 + 64 * 64 * (2 * n - 1))
    norms = 2 * (16 + 2 * n * (16 + 32 + 64))
    assert count == convs + norms + 650


def test_depth_counts_the_layers_with_weights():
    for depth in (8, 14, 20):
        model = resnet(depth, shape=(3, 32, 32), classes=10)
        assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth
    for depth in (6, 10, 18):
        with pytest.raises(InputError, match="6n"):
            resnet(depth, shape=(3, 32, 32), classes=10)


def test_shortcuts_are_option_a():
    """With its residual branch silenced, a block is the subsampled input between equal numbers of zero channels."""
    block = resnet(8, shape=(3, 32, 32), classes=10).net.layer2[0].eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 16, 32, 32)
    y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2]) and y[:, :8].sum() == y[:, 24:].sum() == 0


def test_weights_of_others_fit_by_name():
    keys = set(resnet(20, shape=(3, 32, 32), classes=10).net.state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer3.2.bn2.bias", "linear.bias"} < keys
    assert not any("shortcut" in key or "downsample" in key for key in keys)


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n in ("mlp-64x2", "cnn-8-16", "vit-tiny", "mixer-tiny", "resnet8")]
)
def test_networks_learn_digits(name):
    train, _ = load_data("digits")
    model = load_classifier(name, shape=train.shape, classes=train.classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3 if "-tiny" not in name else 2e-3)
    x, y = train.take(torch.arange(64))
    for _ in range(80):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (model(x).argmax(1) == y).float().mean() > 0.9
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_images_far_from_square_or_tiny():
    for name in ("cnn-4-4-4", "vit-tiny", "mixer-tiny", "resnet8", "mlp-4"):
        model = load_classifier(name, shape=(2, 10, 20), classes=3)
        assert model(model.example).shape == (2, 3)


def test_imports_stay_light():
    heavy = "kornia", "transformers", "PIL", "sklearn", "datasets", "pyarrow", "torchdata", "accelerate"
    script = (
        "import sys, limbeck.data.batches, limbeck.data.load, limbeck.data.noise, limbeck.models.load;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
