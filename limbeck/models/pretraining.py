"""A network is pre-trained to regress the features of an encoder; a probe then makes a classifier of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.modules import Taps
from limbeck.errors import InputError
from limbeck.models.classifier import Classifier

if TYPE_CHECKING:
    from limbeck.models.synthetic import SyntheticSet

__all__ = ["Pretraining", "Regressor", "embed", "probe"]


class Regressor(nn.Module):
    """A network with a linear layer to D numbers in the place of its head."""

    def __init__(self, net: Classifier, targets: int) -> None:
        super().__init__()
        self.net = net
        self.last = nn.Linear(embed(net, net.example).shape[1], targets).to(net.mean.device)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(embed(self.net, x))


def embed(net: Classifier, x: Tensor) -> Tensor:
    """phi(x): the penultimate features, (B, D)."""
    return Taps(f"{net.head}:in")(net, x)[1][0].flatten(1)


@dataclass(frozen=True)
class Pretraining:
    """A network learns the targets by plain MSE, without augmentation; then a linear probe on the set's labels.

    Args:
        steps: SGD steps with momentum 0.9.
        rate, weight_decay: of SGD.
        batch: images a step.
    """

    steps: int = 300
    rate: float = 0.1
    weight_decay: float = 1e-3
    batch: int = 256

    def __call__(self, net: nn.Module, made: SyntheticSet) -> None:
        assert isinstance(net, Classifier) and made.targets is not None
        self.pretrain(net, made)
        probe(net, made().detach().clamp(0, 1), made.y)

    def pretrain(self, net: Classifier, made: SyntheticSet) -> None:
        """Regress the targets; the network's own head is left alone."""
        assert made.targets is not None
        x, y = made().detach().clamp(0, 1), made.targets.detach()
        learner = Regressor(net, y.shape[1]).train()
        optimizer = torch.optim.SGD(learner.parameters(), self.rate, momentum=0.9, weight_decay=self.weight_decay)
        for _ in range(self.steps):
            rows = torch.randperm(len(x))[: self.batch]
            optimizer.zero_grad()
            F.mse_loss(learner(x[rows]), y[rows]).backward()
            optimizer.step()
        net.eval()


def probe(net: Classifier, x: Tensor, y: Tensor, decay: float = 1e-3) -> None:
    """Fit the head, and it alone, to the classes of some images: logistic regression on standardised features."""
    net.eval()
    with torch.no_grad():
        f = embed(net, x)
    centre, scale = f.mean(0), f.std(0).clamp(min=1e-3)
    head = net.get_submodule(net.head)
    if not isinstance(head, nn.Linear):
        raise InputError("head", type(head).__name__, "is no linear layer; a probe needs one")
    weight = torch.zeros(net.num_classes, f.shape[1] + 1, device=f.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")
    seen = torch.cat([(f - centre) / scale, torch.ones_like(f[:, :1])], 1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(seen @ weight.T, y) + decay * weight[:, :-1].square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        head.weight.copy_(weight[:, :-1] / scale)
        if head.bias is not None:
            head.bias.copy_(weight[:, -1] - head.weight @ centre)
