"""What a classifier costs to run: size, operations and the time of one image on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from limbeck.run.evaluation import evaluating
from limbeck.run.outcome import Cost

__all__ = ["bytes_of", "cost", "flops_of", "latency_of"]

BUDGET_S = 0.4  # of timing
WARM_UP, FEWEST, MOST = 3, 5, 200  # passes


def cost(model: nn.Module, example: Tensor) -> Cost:
    """Measure a model in eval mode; it is left in the mode it was in.

    Args:
        model: images to logits.
        example: (B, C, H, W) images where the model is; the first one is used.

    Returns:
        ``flops`` counts matrix products, convolutions and attention, a multiply-add as two; ``latency_ms`` is a median
        of repeats within 0.4 s, the device waited for.
    """
    one = example[:1]
    with evaluating(model):
        flops = flops_of(lambda: model(one))
        latency = latency_of(lambda: model(one), one.device)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        flops=flops,
        latency_ms=latency,
        memory_mb=bytes_of(model) / 1e6,
    )


def bytes_of(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers; what is shared counts once."""
    return sum(t.numel() * t.element_size() for held in (model.parameters(), model.buffers()) for t in held)


def flops_of(call: Callable[[], object]) -> int:
    """Operations of a call, with fused attention taken apart: torch's counter knows neither the CPU's kernel for it nor
    the fast path of ``nn.MultiheadAttention``."""
    counter, fast = FlopCounterMode(display=False), torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())


def latency_of(call: Callable[[], object], device: torch.device) -> float:
    """Median milliseconds of a call."""

    def timed() -> float:
        begun = time.perf_counter()
        call()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return 1e3 * (time.perf_counter() - begun)

    if timed() > 1e3 * BUDGET_S:  # of a large model one warm pass says enough
        return timed()
    for _ in range(WARM_UP - 1):
        timed()
    taken, end = list[float](), time.perf_counter() + BUDGET_S
    while len(taken) < FEWEST or (len(taken) < MOST and time.perf_counter() < end):
        taken.append(timed())
    return median(taken)
