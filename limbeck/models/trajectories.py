"""Networks' parameters along their training on real images: what methods that match trajectories look at.

A bank trains an expert the first time that one of its parameters is asked for, as a function of the bank's seed and the
expert's number. In a folder it outlives the process: an expert that is whole on disk is never trained again.
"""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.checkpoint import atomic_folder, write_atomic
from limbeck.data.batches import Batches
from limbeck.data.images import ImageSet
from limbeck.errors import InputError
from limbeck.models.load import seeded
from limbeck.models.renew import renew
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.unroll import Parameters

__all__ = ["Flat", "Sgd", "Training", "TrajectoryBank"]

FILE = "trajectory.safetensors"


class Training(Protocol):
    """How experts are trained: a frozen value, whose ``repr`` tells it from others."""

    @property
    def batch(self) -> int:
        """Images a step."""
        ...

    @property
    def augment(self) -> str:
        """See :func:`limbeck.data.augment.augmentation`."""
        ...

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer: ...

    def step(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, *, epoch: int, epochs: int
    ) -> None:
        """One step in place, in epoch ``epoch`` of 0 ... ``epochs - 1``."""
        ...


@dataclass(frozen=True)
class Sgd:
    """Plain gradient descent.

    Args:
        rate: step size.
        momentum: heavy-ball momentum.
        weight_decay: L2 on all parameters.
        batch, augment: see :class:`Training`.
    """

    rate: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch: int = 256
    augment: str = "none"

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(net.parameters(), self.rate, self.momentum, weight_decay=self.weight_decay)

    def step(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, *, epoch: int, epochs: int
    ) -> None:
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


@dataclass(frozen=True)
class Flat:
    """Towards flat regions: the surrogate gap of GSAM (Zhuang et al. 2022, https://arxiv.org/abs/2203.08065).

        g = grad L(theta),   g_p = grad L(theta + rho g / ||g||),   g_orth = g - (g . g_p / ||g_p||^2) g_p
        theta <- theta - rate (g_p - alpha g_orth)

    Args:
        rate: step size.
        rho: how far away the loss is looked at.
        alpha: weight of the gap between the loss there and here.
        batch, augment: see :class:`Training`.
    """

    rate: float = 0.01
    rho: float = 0.01
    alpha: float = 0.3
    batch: int = 256
    augment: str = "none"

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(net.parameters(), self.rate)

    def step(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, *, epoch: int, epochs: int
    ) -> None:
        weights = list(net.parameters())
        g = torch.autograd.grad(F.cross_entropy(net(x), y), weights)
        held = [p.detach().clone() for p in weights]
        with torch.no_grad():
            size = torch.stack([part.square().sum() for part in g]).sum().sqrt().clamp(min=1e-12)
            for p, part in zip(weights, g, strict=True):
                p.add_(self.rho * part / size)
        g_p = torch.autograd.grad(F.cross_entropy(net(x), y), weights)
        with torch.no_grad():
            along = torch.stack([(a * b).sum() for a, b in zip(g, g_p, strict=True)]).sum()
            along = along / torch.stack([b.square().sum() for b in g_p]).sum().clamp(min=1e-24)
            for p, was, a, b in zip(weights, held, g, g_p, strict=True):
                p.copy_(was)
                p.grad = b - self.alpha * (a - along * b)
        optimizer.step()
        optimizer.zero_grad()


class TrajectoryBank:
    """Experts, each a network's parameters at the start of its training and at regular moments of it.

    Args:
        net: the kind of network; every expert's first weights are drawn anew. On its device experts are trained.
        data: the real images.
        experts: how many there are.
        length: moments after the start.
        training: how they are trained.
        per_epoch: moments an epoch.
        seed: of all experts; a bank on disk keeps its own.
        folder: where they are kept; None for memory. What a folder has beyond what is asked for does no harm.
        begin: a set that every network is trained on, in the set's own way, before its trajectory starts.

    Raises:
        InputError: when a folder has the experts of another network, other images or another training, or shorter ones.
    """

    def __init__(
        self, net: nn.Module, data: ImageSet, *, experts: int, length: int, training: Training, per_epoch: int = 1,
        seed: int = 0, folder: Path | str | None = None, begin: SyntheticSet | None = None,
    ) -> None:  # fmt: skip
        self.net, self.data, self.experts, self.length = net, data, experts, length
        self.training, self.per_epoch, self.seed, self.begin = training, per_epoch, seed, begin
        steps = len(Batches(data, training.batch))
        if per_epoch > steps:
            raise InputError("per_epoch", per_epoch, f"is more than an expert's {steps} steps an epoch")
        self.folder = Path(folder).expanduser() if folder else None
        self._held: dict[int, Parameters] = {}
        self._whole: set[int] = set()
        if self.folder is not None:
            self._agree(self.folder)

    def at(self, expert: int, moment: int) -> Parameters:
        """An expert's parameters at a moment, 0 for the start; constant, where the network is."""
        if not 0 <= expert < self.experts or not 0 <= moment <= self.length:
            raise IndexError(f"moment {moment} of expert {expert}; there are {self.length} of {self.experts}")
        like = {name: p.device for name, p in self.net.named_parameters()}
        path = self._trained(expert)
        if path is None:
            return {name: self._held[expert][name][moment].to(device) for name, device in like.items()}
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name)[moment].to(device) for name, device in like.items()}

    def _trained(self, expert: int) -> Path | None:
        """Train an expert that is not there; where it is on disk."""
        if self.folder is None:
            if expert not in self._held:
                self._held[expert] = self._train(expert)
            return None
        path = self.folder / f"expert-{expert:04d}" / FILE
        if expert not in self._whole:
            if not self._is_whole(path):
                found = self._train(expert)
                with atomic_folder(path.parent) as part:
                    save_file(found, part / FILE)
            self._whole.add(expert)
        return path

    def _is_whole(self, path: Path) -> bool:
        if not path.is_file():
            return False
        try:
            with safe_open(path, "pt") as file:
                found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            warnings.warn(f"expert {path} is damaged ({error}); it is trained again", stacklevel=2)
            return False
        return found == {name: [self.length + 1, *p.shape] for name, p in self.net.named_parameters()}

    def _train(self, expert: int) -> Parameters:
        """All moments of an expert, (length + 1, ...) by name, on the CPU."""
        net, device = copy.deepcopy(self.net).requires_grad_(True), next(self.net.parameters()).device
        mixed = (self.seed * 0x9E3779B97F4A7C15 + expert * 0xD1B54A32D192ED03) % 2**63
        epochs = -(-self.length // self.per_epoch)
        with seeded(mixed), torch.enable_grad():
            renew(net)
            if self.begin is not None:
                self.begin.use(net, self.begin)
            net.train()
            moments = {name: [p.detach().cpu().clone()] for name, p in net.named_parameters()}
            batches = Batches(self.data, self.training.batch, seed=mixed, augment=self.training.augment)
            optimizer = self.training.optimizer(net)
            marks = {round(k * len(batches) / self.per_epoch) for k in range(1, self.per_epoch + 1)}
            for epoch in range(epochs):
                for step, batch in enumerate(batches, 1):
                    x, y = batch.x.to(device), batch.y.to(device)
                    self.training.step(net, optimizer, x, y, epoch=epoch, epochs=epochs)
                    if step in marks:
                        for name, p in net.named_parameters():
                            moments[name].append(p.detach().cpu().clone())
        return {name: torch.stack(found[: self.length + 1]) for name, found in moments.items()}

    def _facts(self) -> dict[str, Any]:
        shapes = [f"{name} {list(p.shape)}" for name, p in self.net.named_parameters()]
        reference = getattr(self.net, "reference", "") or type(self.net).__name__
        return {
            "network": f"{reference} {_digest(str(self.net), *shapes)}",
            "images": f"{self.data.name} {self.data.fingerprint}",
            "training": repr(self.training),
            "per_epoch": self.per_epoch,
            "begin": "" if self.begin is None else _digest(*(f"{k} {v}" for k, v in _contents(self.begin).items())),
            "length": self.length,
            "seed": self.seed,
        }

    def _agree(self, folder: Path) -> None:
        """Write what the bank is of, or hold it against what was written."""
        facts, file = self._facts(), folder / "bank.json"
        if not file.is_file():
            write_atomic(file, json.dumps(facts, indent=1))
            return
        try:
            found = json.loads(file.read_bytes())
            theirs = {name: found[name] for name in facts}
            length, self.seed = int(found["length"]), int(found["seed"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError("bank", str(file), f"cannot be read ({error!r}); choose another folder") from None
        for name in ("network", "images", "training", "per_epoch", "begin"):
            if theirs[name] != facts[name]:
                said = f"has trajectories of other {name} ({theirs[name]}; this run's: {facts[name]})"
                raise InputError("bank", str(folder), f"{said}; choose another folder")
        if length < self.length:
            raise InputError("bank", str(folder), f"has {length} moments of an expert; this run needs {self.length}")
        self.length = length


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _contents(made: SyntheticSet) -> dict[str, str]:
    state = {name: v.detach().cpu().contiguous() for name, v in made.state_dict().items() if isinstance(v, Tensor)}
    return {name: hashlib.sha256(v.numpy().tobytes()).hexdigest() for name, v in state.items()}
