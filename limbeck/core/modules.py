"""Small modules that methods share: frozen networks, moving averages, feature taps and projectors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import InputError, nearest

__all__ = ["Ema", "Projector", "Taps", "each_of", "eval_mode", "freeze", "gather", "in_step", "is_frozen", "unwrap"]

M = TypeVar("M", bound=nn.Module)
_IN_STEP: ContextVar[bool | None] = ContextVar("in_step", default=None)


def freeze(module: M) -> M:
    """Put a network in eval mode for good, stop its gradients, and leave it out of checkpoints.

    Its input still gets gradients, so that a generator or an augmentation can be trained through it. Wrap the call in
    ``torch.no_grad()`` where that is not wanted. A copy that is to learn comes back with ``requires_grad_(True)``.
    """
    module.eval().requires_grad_(False)
    vars(module)["limbeck_frozen"] = True
    return module


def is_frozen(module: nn.Module) -> bool:
    """Whether :func:`freeze` froze it, and nobody gave it gradients again."""
    return getattr(module, "limbeck_frozen", False) and not any(p.requires_grad for p in module.parameters())


@contextmanager
def eval_mode(*models: nn.Module) -> Generator[None]:
    """Eval mode inside; afterwards, whatever happened, every submodule is back in the mode it was in."""
    modes = {module: module.training for model in models for module in model.modules()}
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class Ema(nn.Module):
    """An exponential moving average of a model: ``average <- decay * average + (1 - decay) * model``.

    Call it like the model. Buffers (batch-norm statistics) are copied, not averaged. It is part of a checkpoint.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        super().__init__()
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.train(False)

    def forward(self, *inputs: Any) -> Any:
        return self.average(*inputs)

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float | None = None) -> None:
        """Move towards ``model``; ``decay`` replaces the default, for schedules."""
        keep = self.decay if decay is None else decay
        for mine, theirs in zip(self.average.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs.detach().to(mine.dtype), 1.0 - keep)
        for mine, theirs in zip(self.average.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)


class Taps:
    """Reads inner features while a model runs: ``logits, (mid, last) = Taps("layer2", "fc:in")(model, x)``.

    A path names a submodule, whose output is read; ``:in`` reads its first input instead; where that is a tuple, its
    first part. The hooks live for one call on one model, so two runs in a process never meet; the model called is the
    one given, wrapped or not, except that a compiled one runs uncompiled: a compiled graph has no place for hooks.

    Raises:
        InputError: for a path that names no submodule.
        RuntimeError: for a submodule that does not run, or whose feature a later layer overwrites in place.
    """

    def __init__(self, *paths: str) -> None:
        self.paths = paths

    def __call__(self, model: nn.Module, *inputs: Any) -> tuple[Any, list[Tensor]]:
        inner, seen, versions, handles = unwrap(model), dict[str, Tensor](), dict[str, int](), list[Any]()

        def keep(path: str) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any = None) -> None:
                found = next(iter((*args, *named.values()))) if path.endswith(":in") else output
                seen[path] = found[0] if isinstance(found, tuple) else found
                versions[path] = _version(seen[path])

            return hook

        try:
            for path in dict.fromkeys(self.paths):
                module = _submodule(inner, path.removesuffix(":in"))
                before = path.endswith(":in")
                register = module.register_forward_pre_hook if before else module.register_forward_hook
                handles.append(register(keep(path), with_kwargs=True))
            result = getattr(model, "_orig_mod", model)(*inputs)
        finally:
            for handle in handles:
                handle.remove()
        for path in self.paths:
            if path not in seen:
                raise RuntimeError(f"{path}: this submodule did not run in the forward pass, so it has no feature")
            if _version(seen[path]) != versions[path]:
                raise RuntimeError(f"{path}: a later layer overwrites this feature in place; tap that layer instead")
        return result, [seen[path] for path in self.paths]

    def shapes(self, model: nn.Module, *inputs: Any) -> list[tuple[int, ...]]:
        """The features' shapes without the batch axis, from one pass in eval mode that leaves the model as it was."""
        with eval_mode(model), torch.no_grad():
            return [tuple(f.shape[1:]) for f in self(model, *inputs)[1]]


def _version(feature: Tensor) -> int:
    return -1 if feature.is_inference() else feature._version  # how often it was written to; not counted in inference


def _submodule(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        known = [name for name, _ in model.named_modules() if name]
        raise InputError("feature path", path, "names no submodule" + nearest(path, known)) from None


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel or ``torch.compile``, whose submodule paths a user knows."""
    while True:
        inner = getattr(model, "module", None) if "Parallel" in type(model).__name__ else None
        inner = inner if inner is not None else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


class Projector(nn.Module):
    """Maps features of one shape to another: vectors ``(C,)``, maps ``(C, H, W)`` or tokens ``(T, C)``.

    Vectors and tokens through a linear layer (two with GELU when ``hidden``), maps through a 1x1 convolution and, where
    sizes differ, adaptive average pooling (down) or bilinear resizing (up), stated rather than silently broadcast.

    Args:
        source: the student's feature shape without the batch axis.
        target: the teacher's.
        hidden: width of a hidden layer; 0 for none.
    """

    def __init__(self, source: tuple[int, ...], target: tuple[int, ...], hidden: int = 0) -> None:
        super().__init__()
        if len(source) != len(target) or len(source) not in (1, 2, 3):
            raise ValueError(f"cannot project features of shape {source} to {target}: different kinds")
        if len(source) == 2 and source[0] != target[0]:
            raise ValueError(f"cannot project {source[0]} tokens to {target[0]}: pool or resample them first")
        is_map = len(source) == 3
        self.size = (target[1], target[2]) if is_map and source[1:] != target[1:] else None
        self.down = is_map and source[1] >= target[1]
        a, b = (source[0], target[0]) if is_map else (source[-1], target[-1])
        layer: Callable[[int, int], nn.Module] = (lambda i, o: nn.Conv2d(i, o, 1)) if is_map else nn.Linear
        self.layers = nn.Sequential(layer(a, hidden), nn.GELU(), layer(hidden, b)) if hidden else layer(a, b)

    def forward(self, feature: Tensor) -> Tensor:
        if self.size is not None and self.down:
            feature = F.adaptive_avg_pool2d(feature, self.size)
        feature = self.layers(feature)
        if self.size is not None and not self.down:
            feature = F.interpolate(feature, self.size, mode="bilinear", align_corners=False)
        return feature


@contextmanager
def in_step(together: bool) -> Generator[None]:
    """Whether all processes run what is inside, each on its own rows, as they do in a step of the driver; or only one
    of them does while the others wait, so that nothing in it may ask them."""
    before = _IN_STEP.set(together)
    try:
        yield
    finally:
        _IN_STEP.reset(before)


@torch.no_grad()
def gather(rows: Tensor) -> Tensor:
    """The rows of every process, rank after rank, without gradient; the tensor itself when there is one process.

    For tables and statistics that must be equal everywhere. Every process must give as many rows.
    """
    if _IN_STEP.get() is False or not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return rows.detach()
    parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)


@torch.no_grad()
def each_of(mask: Tensor) -> Tensor:
    """Weights under which a sum is the mean over what a mask chooses: the mask divided by its sum, any shape.

    In a step of several processes the sum is the mean one of all, so that the average of their losses, and of their
    gradients, is the mean over what their masks choose together, however unevenly it is spread: there, every process
    must ask for it as often. All 0 where nothing is chosen.
    """
    counts = mask.sum()[None].float()
    counts = gather(counts) if _IN_STEP.get() else counts
    return mask / (counts.sum().clamp(min=1) / len(counts))
