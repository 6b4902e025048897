"""Several processes as one: equal weights, each its rows of every batch, averaged gradients.

Replicated networks are not wrapped in ``DistributedDataParallel``. Its reducer follows one backward of one forward, so
that a backward for each term, or a call of a part of the network, silently leaves every process with gradients of its
own (measured, and kept as tests); averaging after the backward is right for any method, and weights keep their names.
The price is that communication does not overlap the backward. FSDP2 shards modules in place and is right in all cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DataLoader, IterableDataset

from limbeck.core.modules import is_frozen
from limbeck.core.source import mapped
from limbeck.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Team", "distribute"]

REFUSED = ("DEEPSPEED", "MEGATRON_LM", "XLA", "TP")


def distribute(method: nn.Module, data: Iterable[Any] | None, accelerator: Accelerator) -> Iterable[Any] | None:
    """Spread a method and its batches over the accelerator's processes.

    The first process's weights and buffers go to all. Under FSDP2 every child that is not frozen is sharded in place,
    as Accelerate's plugin says. A batch of ``b`` rows is cut into ``b / processes`` for each, so that the data mean
    the same for any number of processes; up to ``processes - 1`` rows of a ragged last batch are left out. Rows are cut
    before a map-style ``DataLoader`` reads them, otherwise after. Each process draws its own random numbers.

    Args:
        method: moved to the accelerator's device.
        data: the same batches on every process.
        accelerator: one process, several (``MULTI_CPU``, ``MULTI_GPU``, ...), or FSDP2.

    Returns:
        This process's batches.

    Raises:
        InputError: for a kind of distribution that is not supported, and for parameters that FSDP2 cannot shard.
    """
    kind = accelerator.distributed_type.name
    if kind in REFUSED or (kind == "FSDP" and not accelerator.is_fsdp2):
        raise InputError("accelerate", kind, "is not supported; use data parallelism or FSDP version 2")
    method.to(accelerator.device)
    if accelerator.num_processes == 1:
        return data
    for tensor in (*method.parameters(), *method.buffers()):
        if not hasattr(tensor, "full_tensor"):
            dist.broadcast(tensor.detach(), 0)
    if kind == "FSDP":
        _shard(method, accelerator)
    seed = int(_from_first(torch.tensor(torch.initial_seed() % 2**62), accelerator.device))
    torch.manual_seed(seed + accelerator.process_index)
    if data is None:
        return None
    if isinstance(data, DataLoader) and data.batch_sampler and not isinstance(data.dataset, IterableDataset):
        return _loader_of(data, accelerator, seed)
    return _Rows(data, accelerator.process_index, accelerator.num_processes)


def _shard(method: nn.Module, accelerator: Accelerator) -> None:
    from accelerate.utils import fsdp2_prepare_model
    from torch.distributed.fsdp import register_fsdp_forward_method

    for name, p in method.named_parameters(recurse=False):
        if p.requires_grad:
            raise InputError(
                f"{type(method).__name__}.{name}", tuple(p.shape), "is a bare parameter, which FSDP2 cannot shard; "
                "use data parallelism, or make it part of a module",
            )  # fmt: skip
    plugin = accelerator.state.fsdp_plugin
    assert plugin is not None
    named = plugin.transformer_cls_names_to_wrap
    for module in method.children():
        for part in module if isinstance(module, nn.ModuleList) else [module]:
            if is_frozen(part) or next(part.parameters(), None) is None:
                continue
            inside = list(part.modules())
            own = (name for m in inside for name in getattr(m, "_no_split_modules", None) or ())
            # what a part has of them: Accelerate refuses a part, such as a projector, that lacks one
            here = {type(m).__name__ for m in inside} & set(own if named is None else named)
            plugin.transformer_cls_names_to_wrap = sorted(here)
            fsdp2_prepare_model(accelerator, part)
            if hasattr(part, "generate"):  # it does not go through ``forward``, where shards are gathered
                register_fsdp_forward_method(part, "generate")
    plugin.transformer_cls_names_to_wrap = named


class Team:
    """The processes of a run, as the driver sees them. Every method but the attributes is called by all of them."""

    def __init__(self, method: nn.Module, accelerator: Accelerator) -> None:
        self.rank, self.processes = accelerator.process_index, accelerator.num_processes
        self.main, self.device = accelerator.is_main_process, accelerator.device
        norms = [m for m in method.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and not is_frozen(m)]
        self.statistics = [s for m in norms for s in (m.running_mean, m.running_var) if s is not None]

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace gradients by their mean; a parameter that no process used has none. FSDP2 did its own."""
        kept = [p for p in parameters if not hasattr(p, "full_tensor")]
        if not kept:
            return
        used = torch.tensor([float(p.grad is not None) for p in kept], device=self.device)
        dist.all_reduce(used)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in kept]
        self._mean(gradients)
        if any(p.grad is None for p in kept):
            for p, gradient, count in zip(kept, gradients, used.tolist(), strict=True):
                p.grad = gradient if count else None

    def mean(self, scalars: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The scalars' means. Every process must name the same."""
        flat = torch.stack([scalar.detach().to(self.device, torch.float32).reshape(()) for scalar in scalars.values()])
        dist.all_reduce(flat)
        return dict(zip(scalars, (flat / self.processes).unbind(), strict=True))

    def share_statistics(self) -> None:
        """Average what batch normalisation counts, of which each process sees its own rows."""
        if self.statistics:
            self._mean(self.statistics)

    def agree(self, answer: bool) -> bool:
        """The first process's answer."""
        return bool(_from_first(torch.tensor(float(answer)), self.device))

    def gather(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """Everybody's, by rank."""
        parts: list[Any] = [None] * self.processes
        dist.all_gather_object(parts, state)
        return parts

    def rejoin(self) -> None:
        """Draw the same random numbers again, so that what follows a fit is decided alike everywhere."""
        torch.set_rng_state(_from_first(torch.get_rng_state(), self.device))

    @torch.no_grad()
    def _mean(self, tensors: Sequence[Tensor]) -> None:
        """In place, one all-reduce a dtype."""
        for dtype in dict.fromkeys(t.dtype for t in tensors):
            group = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.reshape(-1) for t in group])
            dist.all_reduce(flat)
            flat /= self.processes
            for t, part in zip(group, flat.split([t.numel() for t in group]), strict=True):
                t.copy_(part.view_as(t))


class _Rows:
    """One process's rows of every batch."""

    def __init__(self, data: Iterable[Any], rank: int, processes: int) -> None:
        self.data, self.rank, self.processes = data, rank, processes

    def __getattr__(self, name: str) -> Any:
        return _of_its_own(self, "data", name)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.data:
            lengths: list[int] = []
            mapped(batch, partial(_note_length, lengths=lengths))
            if not lengths:
                raise InputError("data", type(batch).__name__, "batches hold no tensor whose rows could be shared out")
            if own := _own(lengths[0], self.rank, self.processes):
                yield mapped(batch, partial(_cut, rows=lengths[0], own=own))


def _note_length(leaf: Any, lengths: list[int]) -> None:
    if isinstance(leaf, Tensor) and leaf.ndim:
        lengths.append(len(leaf))


def _cut(leaf: Any, rows: int, own: slice) -> Any:
    long = leaf.ndim > 0 if hasattr(leaf, "ndim") else isinstance(leaf, list)
    return leaf[own] if long and len(leaf) == rows else leaf


class _Indices:
    """One process's indices of every batch of a sampler; also what iterates over them, with the sampler's position."""

    def __init__(self, batches: Any, rank: int, processes: int) -> None:
        self.batches, self.rank, self.processes = batches, rank, processes

    def __getattr__(self, name: str) -> Any:
        return _of_its_own(self, "batches", name)

    def __iter__(self) -> _Indices:
        return _Indices(iter(self.batches), self.rank, self.processes)  # now: a sampler may draw its order here

    def __next__(self) -> list[int]:
        for batch in self.batches:
            if own := _own(len(batch), self.rank, self.processes):
                return batch[own]
        raise StopIteration


def _of_its_own(proxy: object, held: str, name: str) -> Any:
    """An attribute of what a proxy holds, such as ``state_dict``; asked for before it holds anything, there is none."""
    if held not in vars(proxy):
        raise AttributeError(name)
    return getattr(vars(proxy)[held], name)


def _own(rows: int, rank: int, processes: int) -> slice | None:
    share = rows // processes
    return slice(rank * share, (rank + 1) * share) if share else None


def _loader_of(loader: DataLoader[Any], accelerator: Accelerator, seed: int) -> DataLoader[Any]:
    """The same loader, reading only this process's rows in the first process's order."""
    sampler = loader.batch_sampler
    assert sampler is not None
    order = getattr(sampler, "sampler", None)
    if order is not None and hasattr(order, "generator"):
        order.generator = order.generator or torch.Generator().manual_seed(seed)
        order.generator.set_state(_from_first(order.generator.get_state(), accelerator.device))
    same = (
        "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context", "generator",
        "prefetch_factor", "persistent_workers",
    )  # fmt: skip
    own = _Indices(sampler, accelerator.process_index, accelerator.num_processes)
    return type(loader)(loader.dataset, batch_sampler=own, **{name: getattr(loader, name) for name in same})


def _from_first(tensor: Tensor, device: torch.device) -> Tensor:
    """The first process's tensor, on the CPU."""
    tensor = tensor.to(device)
    dist.broadcast(tensor, 0)
    return tensor.cpu()
