"""Residual networks for small images: depth 6n + 2, channels 16-32-64, shortcuts without parameters.

He, Zhang, Ren, Sun (2015), Deep Residual Learning for Image Recognition, section 4.2. https://arxiv.org/abs/1512.03385
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import InputError
from limbeck.models.classifier import IMAGENET, Classifier

__all__ = ["ResNet", "resnet"]


class _Block(nn.Module):
    """Two 3x3 convolutions beside option A: the identity, subsampled and padded with zero channels."""

    def __init__(self, source: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(source, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.grown = stride, width - source

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.grown:
            before = self.grown // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.grown - before))
        return F.relu(y + x)


class ResNet(nn.Module):
    """A first convolution, three stages of n blocks, the mean over the map, a linear layer."""

    def __init__(self, depth: int, channels: int, classes: int) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise InputError("depth", depth, "is not 6n + 2: 8, 14, 20, 32, 44, 56, 110")
        n = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1, n)
        self.layer2 = self._stage(16, 32, 2, n)
        self.layer3 = self._stage(32, 64, 2, n)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(source: int, width: int, stride: int, n: int) -> nn.Sequential:
        return nn.Sequential(_Block(source, width, stride), *(_Block(width, width, 1) for _ in range(n - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def resnet(depth: int, *, shape: Sequence[int], classes: int | Sequence[str]) -> Classifier:
    """The network of that depth; colour images are normalised by ImageNet's mean and deviation, others to [-1, 1]."""
    mean, std = IMAGENET if shape[0] == 3 else ((0.5,) * shape[0], (0.5,) * shape[0])
    net = ResNet(depth, shape[0], classes if isinstance(classes, int) else len(classes))
    stages = ("net.layer1", "net.layer2", "net.layer3")
    return Classifier(net, shape=shape, classes=classes, mean=mean, std=std, head="net.linear", stages=stages)
