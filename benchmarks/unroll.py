"""Unrolled matching, replayed one step at a time against the graph of the whole way, side by side in one process.

    python benchmarks/unroll.py [--steps 10 50] [--rounds 5] [--width 64 --depth 3 --size 32 --images 100]
    [--augment none] [--threads 1]

The loss of trajectory matching (MTT) and its gradient for the images and the step size, on a convnet. Replaying keeps
the parameters of every step and as many graphs as go into a fixed number of bytes, the usual one or none; every other
step costs one more forward and backward pass. The contestants take turns, A B C C B A, so that whatever else the
machine does slows all alike; ratios are of medians of processor time. Memory is what tensors hold at most beyond what
is there at the start.

On one core (convnet-64x3, the defaults), of the whole graph's 1497 MiB and 4.85 s at 10 steps, which grow with them:

    a gibibyte of graphs kept   1295 MiB at 10 steps, 1307 at 50 (1.009)   1.07 times the time at 10
    none                         225 MiB at 10 steps,  238 at 50 (1.059)   1.25 times the time
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.profiler import profile

from limbeck.methods.dataset._trajectories import changed, minibatches
from limbeck.models.tiny import convnet
from limbeck.models.unroll import KEEP, Steps, distance, parameters_of, replay, start, unroll

Way = Callable[[int], None]


def contestants(width: int, depth: int, size: int, images: int, augment: str) -> dict[str, Way]:
    """The ways to the same gradient, as functions of the number of steps."""
    torch.manual_seed(0)
    net = convnet(width, depth, shape=(3, size, size), classes=10).requires_grad_(False)
    begin, end = start(parameters_of(net)), {n: p + 0.01 * torch.randn_like(p) for n, p in parameters_of(net).items()}
    x, rate = torch.rand(images, 3, size, size, requires_grad=True), torch.tensor(0.01, requires_grad=True)
    y, change = torch.arange(images) % 10, changed(augment, (3, size, size))

    def data(steps: int) -> Steps:
        x.grad = rate.grad = None
        return minibatches(x, y, rate, size=images, steps=steps, change=change)

    def whole(steps: int) -> None:
        loss: Tensor = distance(unroll(net, begin, data(steps))[-1].theta, end)
        loss.backward()

    def again(keep: int) -> Way:
        return lambda steps: replay(
            net, begin, data(steps), lambda thetas: distance(thetas[-1], end), keep=keep
        ).backward()

    return {"replayed": again(KEEP), "no graph kept": again(0), "whole graph": whole}


def seconds(way: Way, steps: int) -> float:
    began = time.process_time()
    way(steps)
    return time.process_time() - began


def memory(way: Way, steps: int) -> float:
    """MiB held at most beyond the start."""
    gc.collect()
    held = most = 0
    with profile(profile_memory=True) as seen:
        way(steps)
    for event in seen.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs=2, default=[10, 50])
    parser.add_argument("--rounds", type=int, default=5)
    for name, usual in (("width", 64), ("depth", 3), ("size", 32), ("images", 100), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--augment", default="none")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    ways, (few, many) = contestants(given.width, given.depth, given.size, given.images, given.augment), given.steps
    print(f"convnet-{given.width}x{given.depth}, {given.images} images of {given.size}x{given.size}")
    for name, way in ways.items():
        found = [memory(way, steps) for steps in ((few,) if name == "whole graph" else (few, many))]
        print(
            f"{name:13} memory: " + ", ".join(f"{mib:8.1f} MiB at {n}" for mib, n in zip(found, given.steps)),
            flush=True,
        )
        if name != "whole graph":
            more = (found[1] - found[0]) / (many - few)
            print(f"{name:13} memory at {many} steps over {few}: {found[1] / found[0]:.3f}", end=", ")
            print(f"{more:.2f} MiB a step", flush=True)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(2)
    for _ in range(given.rounds):
        for name in (*ways, *reversed(ways)):
            times[name].append(seconds(ways[name], few))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    for name, taken in medians.items():
        print(f"{name:13} {taken:.3f} s at {few} steps, {taken / medians['whole graph']:.3f} of the whole graph's")


if __name__ == "__main__":
    main()
