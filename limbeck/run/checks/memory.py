"""Will the run fit into memory?"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.run.checks.bench import CLOCKS, Bench, updates
from limbeck.run.checks.said import Said, failed, ok, warning
from limbeck.run.cost import bytes_of

TIGHT = 0.8  # of the free memory


def memory(bench: Bench) -> Said:
    """Weights, gradients, the optimiser's state and what a step keeps for its backward pass fit into free memory.

    What a step keeps is measured on a small batch and grows in proportion with the batch.
    """
    method, batch = bench.fit()
    method.train()
    weights = {p.untyped_storage().data_ptr() for p in (*method.parameters(), *method.buffers())}
    kept = dict[int, int]()

    def note(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return saved

    largest = 0
    with torch.autograd.graph.saved_tensors_hooks(note, _as_it_is):
        for _ in updates(method, batch, CLOCKS[1]):
            largest, kept = max(largest, sum(kept.values())), dict[int, int]()
    trained = sum(p.numel() * p.element_size() for p in method.parameters() if p.requires_grad)
    states = 2 if bench.task.spec.optimizer == "adamw" else 1
    needed = bytes_of(method) + (1 + states) * trained + largest * bench.growth
    free = _free(bench.task.device)
    measured = f"about {needed / 1e6:,.1f} MB of {free / 1e6:,.0f} MB that are free"
    if needed > free:
        return failed(measured, "Use a smaller batch with accumulate, precision bf16, or a smaller model.")
    if needed > TIGHT * free:
        return warning(measured, "It is tight: close other programs or use a smaller batch.")
    return ok(measured)


def _as_it_is(saved: Tensor) -> Tensor:
    return saved


def _free(device: torch.device) -> int:
    """Bytes a run could still take on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available
