"""The driver against a hand-written loop: the same distillation, side by side in one process.

    python benchmarks/driver.py [--steps 600]

The two loops alternate step by step, A B B A, so that whatever else the machine does slows both alike. Time is the
processor's; the ratio is that of the median steps, its interval from five parts of the run. Memory is what Python's
allocator and torch's hold at most beyond the start. With ``MALLOC_TRIM_THRESHOLD_=1000000000`` and
``MALLOC_MMAP_THRESHOLD_=1000000000`` in the environment, glibc returns no memory between steps, which steadies the
ratio.
"""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile
from torch.nn import functional as F

from limbeck.core.fit import iterate
from limbeck.core.modules import freeze
from limbeck.data.batches import Images
from limbeck.losses.divergence import distil_kl
from limbeck.methods.classification.kd import KD
from limbeck.models.resnet import resnet
from limbeck.models.tiny import cnn

SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
Loop = Callable[[nn.Module, nn.Module, list[Images], int], Iterator[object]]
WARM, PARTS = 10, 5


def by_hand(student: nn.Module, teacher: nn.Module, data: list[Images], steps: int) -> Iterator[dict[str, Tensor]]:
    """What somebody would write for this one method, with losses kept and none looked at."""
    optimizer = SGD(student.parameters())
    student.train()
    batches = itertools.cycle(data)
    for _ in range(steps):
        batch = next(batches)
        with torch.no_grad():
            t = teacher(batch.x)
        s = student(batch.x)
        ce = 0.1 * F.cross_entropy(s, batch.y)
        kd = 0.9 * distil_kl(s, t, 4.0).mean()
        loss = ce + kd
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield {"ce": ce.detach(), "kd": kd.detach(), "loss": loss.detach()}


def by_driver(student: nn.Module, teacher: nn.Module, data: list[Images], steps: int) -> Iterator[object]:
    """The same through the library, which also looks for losses that are not finite."""
    return iterate(KD(student, teacher), data, SGD, steps=steps)


def milliseconds(loops: tuple[Loop, Loop], *arguments: object, steps: int) -> tuple[list[float], list[float]]:
    """Processor time of every step of two loops that take turns."""
    student, *rest = arguments
    running = [loop(copy.deepcopy(student), *rest, WARM + steps) for loop in loops]
    spent: tuple[list[float], list[float]] = ([], [])
    gc.disable()
    for step in range(WARM + steps):
        for which in (0, 1) if step % 2 else (1, 0):
            begun = time.process_time_ns()
            next(running[which])
            spent[which].append((time.process_time_ns() - begun) / 1e6)
        if step % 50 == 0:
            gc.collect()
    gc.enable()
    return spent[0][WARM:], spent[1][WARM:]


def memory(loop: Loop, student: nn.Module, teacher: nn.Module, data: list[Images]) -> tuple[int, int]:
    """Bytes held at most by Python objects and by tensors, beyond the start."""
    tracemalloc.start()
    for _ in loop(copy.deepcopy(student), teacher, data, 2 * WARM):
        pass
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    student, held, most = copy.deepcopy(student), 0, 0
    gc.collect()
    with profile(profile_memory=True) as seen:
        for _ in loop(student, teacher, data, 2 * WARM):
            pass
    for event in seen.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return python, most


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="timed steps of each loop and size (default: 600)")
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    print("student           step by hand     driver / hand             Python extra   tensors extra")
    digits, cifar = {"shape": (1, 8, 8), "classes": 10}, {"shape": (3, 32, 32), "classes": 10}
    for label, shape, student, teacher in (
        ("CNN, 1x8x8", digits["shape"], cnn(16, 32, **digits), cnn(32, 64, **digits)),
        ("ResNet-8, 3x32x32", cifar["shape"], resnet(8, **cifar), resnet(14, **cifar)),
    ):
        freeze(teacher)
        data = [Images(torch.rand(64, *shape), torch.randint(10, (64,)), torch.arange(64)) for _ in range(8)]
        hand, driver = milliseconds((by_hand, by_driver), student, teacher, data, steps=steps)
        parts = [statistics.median(driver[part::PARTS]) / statistics.median(hand[part::PARTS]) for part in range(PARTS)]
        held, driver_held = memory(by_hand, student, teacher, data), memory(by_driver, student, teacher, data)
        print(
            f"{label:17} {statistics.median(hand):10.3f} ms   "
            f"{statistics.median(driver) / statistics.median(hand):9.4f} [{min(parts):.3f}, {max(parts):.3f}]"
            f"{(driver_held[0] - held[0]) / 1024:+13.1f} KiB{(driver_held[1] - held[1]) / 1024:+12.1f} KiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
