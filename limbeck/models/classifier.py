"""The face of a classifier of images: normalised input, plain logits, a known head and known stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.modules import eval_mode
from limbeck.errors import InputError, brief, nearest

__all__ = ["Classifier", "counted", "same_classes"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Classifier(nn.Module):
    """Images (B, C, H, W) in [0, 1] to logits (B, K).

    Args:
        net: any network that maps normalised images to logits, or to an output that has ``.logits``.
        shape: (C, H, W) of an image.
        classes: their number K, or their names in the order of the logits.
        mean: subtracted from each channel; 0 when left out.
        std: then divides it; 1 when left out.
        head: path of the layer that makes the logits, such as ``net.fc``. Found by one traced pass when left out.
        stages: paths of the stages to read features from, shallow to deep. Found likewise.

    Attributes:
        head: ``head + ":in"`` is the penultimate feature for :class:`limbeck.core.modules.Taps`.
        reference: what :func:`limbeck.models.load.load_classifier` made the network from; empty when made by hand.

    Raises:
        InputError: when the network does not run on such images, gives other logits, or has no head that can be found.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        shape: Sequence[int],
        classes: int | Sequence[str],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        head: str | None = None,
        stages: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.shape = (shape[0], shape[1], shape[2])
        names = tuple(str(k) for k in range(classes)) if isinstance(classes, int) else tuple(classes)
        if not names or len(set(names)) != len(names):
            raise InputError("classes", ", ".join(names), "must be one or more names, all different")
        self.classes = names
        self.reference = ""
        for name, values, default in (("mean", mean, 0.0), ("std", std, 1.0)):
            values = [default] * self.shape[0] if values is None else list(values)
            if len(values) != self.shape[0] or (name == "std" and min(values) <= 0):
                raise InputError(name, values, f"must hold {self.shape[0]} numbers, one a channel (std above 0)")
            like = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(()))
            self.register_buffer(name, torch.tensor(values, device=like.device, dtype=like.dtype).view(1, -1, 1, 1))
        trace = _Trace(self)
        self.head = trace.head() if head is None else trace.known(head, "head")
        self.stages = trace.stages(self.head) if stages is None else tuple(trace.known(s, "stages") for s in stages)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def example(self) -> Tensor:
        """Two black images, where the network is."""
        return torch.zeros(2, *self.shape, device=self.mean.device, dtype=self.mean.dtype)

    def forward(self, x: Tensor) -> Tensor:
        output = self.net((x.to(self.mean.dtype) - self.mean) / self.std)
        logits = getattr(output, "logits", output)
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


class _Trace:
    """What ran in one pass over the example, in the order in which it finished."""

    def __init__(self, model: Classifier) -> None:
        self.model = model
        self.paths = {module: path for path, module in model.named_modules()}  # a shared module has one path here
        self.ran: dict[str, Tensor] = {}
        handles = [module.register_forward_hook(self._keep) for module in self.paths]
        try:
            with eval_mode(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
                logits = model(model.example)
        except Exception as error:  # whatever a foreign network raises on these images is the user's answer
            shape = "x".join(map(str, model.shape))
            raise InputError(
                "shape", shape, f"images do not run through {type(model.net).__name__}: {brief(error)}"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        if logits.shape != (2, model.num_classes):
            got = list(logits.shape[1:])
            raise InputError("classes", model.num_classes, f"is not what the network gives: its logits are (B, *{got})")

    def _keep(self, module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        feature = output[0] if isinstance(output, tuple) else output
        if isinstance(feature, Tensor) and feature.ndim in (2, 3, 4) and len(feature) == 2:
            self.ran.pop(self.paths[module], None)
            self.ran[self.paths[module]] = feature

    def known(self, path: str, field: str) -> str:
        if path not in self.ran:
            raise InputError(
                field, path, "is no submodule that gives a feature" + nearest(path, filter(None, self.ran))
            )
        return path

    def head(self) -> str:
        """The linear layer that ran last among those that give (B, K)."""
        wanted = (2, self.model.num_classes)
        for path in reversed(self.ran):
            if isinstance(self.model.get_submodule(path), nn.Linear) and self.ran[path].shape == wanted:
                return path
        kind = type(self.model.net).__name__
        raise InputError(
            "head", kind, f"has no linear layer with {wanted[1]} outputs; pass head='net.PATH' of the last"
        )

    def stages(self, head: str) -> tuple[str, ...]:
        """The shallowest siblings of one kind that hold half of the parameters; else the children of the trunk."""
        total = sum(p.numel() for name, p in self.model.net.named_parameters("net") if not name.startswith(head + "."))
        level, fallback = ["net"], list[str]()
        while level:
            for parent in level:
                children = [c for c in self._children(parent, head) if any(True for _ in self._module(c).children())]
                kinds: dict[type[nn.Module], list[str]] = {}
                for child in children:
                    kinds.setdefault(type(self._module(child)), []).append(child)
                for group in kinds.values():
                    if len(group) > 1 and 2 * sum(map(self._size, group)) >= total:
                        return self._ordered(group)
                if not fallback and len(children) > 1:
                    fallback = children
            level = [child for parent in level for child in self._below(parent)]
        leaves = [p for p in self.ran if p.startswith("net.") and p != head and self._is_leaf(p)]
        return self._ordered(fallback or leaves)

    def _module(self, path: str) -> nn.Module:
        return self.model.get_submodule(path)

    def _size(self, path: str) -> int:
        return sum(p.numel() for p in self._module(path).parameters())

    def _is_leaf(self, path: str) -> bool:
        return not any(True for _ in self._module(path).children()) and self._size(path) > 0

    def _below(self, path: str) -> Iterator[str]:
        return (f"{path}.{name}" for name, _ in self._module(path).named_children())

    def _children(self, path: str, head: str) -> Iterator[str]:
        """Those that ran and do not hold the head."""
        return (c for c in self._below(path) if c in self.ran and not f"{head}.".startswith(f"{c}."))

    def _ordered(self, paths: Sequence[str]) -> tuple[str, ...]:
        return tuple(path for path in self.ran if path in set(paths))


def same_classes(field: str, ours: Sequence[str], data: Sequence[str]) -> None:
    """Refuse a model whose classes are not the data's, or stand in another order.

    Names that only count (``0``, ``1``, ... or ``LABEL_0``, ...) say nothing, so that their number alone must agree.

    Raises:
        InputError: naming the first class that differs.
    """
    if len(ours) != len(data):
        raise InputError(field, f"{len(ours)} classes", f"is not what the data have: {len(data)}")
    mixed = set(ours) == set(data)
    if not mixed and (counted(ours) or counted(data)):
        return
    for k, (mine, theirs) in enumerate(zip(ours, data, strict=True)):
        if mine != theirs:
            order = " (the same names in another order)" if mixed else ""
            raise InputError(
                field, mine, f"is its class {k}; the data's is {theirs!r}{order}: make the two lists agree"
            )


def counted(names: Sequence[str]) -> bool:
    """Whether names only count the classes and say nothing of them."""
    return all(name in (str(k), f"LABEL_{k}") for k, name in enumerate(names))
