"""Generalised JSD over a vocabulary, side by side in one process: limbeck, TRL's function, Liger's chunked loss.

    pip install --no-deps --target peers trl liger-kernel triton
    PYTHONPATH=peers python benchmarks/vocabulary.py [--rounds 6] [--threads 2] [--chunks 64 128 256 512]

Forward and backward in float32 on a processor, with gradients for the student's hidden states and head. The
contestants take turns, A B C C B A, so that whatever else the machine does slows all alike; ratios are of medians.
Memory is what tensors hold at most beyond what is there at the start; it includes the gradients. TRL's function is
called on the logits of both models, as its trainer does; when TRL is absent, its formula is written out. Liger is
tried with several lengths of chunk, plain and compiled by ``torch.compile``, and the fastest of each is compared. On a
machine that others use, processor time is the fairer ratio; ``OMP_WAIT_POLICY=PASSIVE`` keeps waiting threads out of
it.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.profiler import profile

from limbeck.losses.vocabulary import JSD, Words, token_loss

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
BETA = 0.5
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def limbeck(student: Tensor, head: Tensor, teacher: Tensor, teacher_head: Tensor) -> Tensor:
    """The mean over tokens, as everywhere here."""
    weight = torch.full((len(student),), 1 / len(student))
    return token_loss(JSD(BETA), Words(teacher, teacher_head), Words(student, head), weight).total


def written_out(student_logits: Tensor, teacher_logits: Tensor, beta: float) -> Tensor:
    """The formula of TRL's function."""
    q, p = F.log_softmax(student_logits, -1), F.log_softmax(teacher_logits, -1)
    share = torch.tensor(beta)
    m = torch.logsumexp(torch.stack([q + torch.log1p(-share), p + share.log()]), 0)
    jsd = share * F.kl_div(m, p, reduction="none", log_target=True)
    jsd = jsd + (1 - share) * F.kl_div(m, q, reduction="none", log_target=True)
    return jsd.sum() / len(jsd)


def full_logits(
    student: Tensor, head: Tensor, teacher: Tensor, teacher_head: Tensor, jsd: Callable[..., Tensor]
) -> Tensor:
    """Both models' logits, then the divergence."""
    with torch.no_grad():
        teacher_logits = F.linear(teacher, teacher_head)
    return jsd(F.linear(student, head), teacher_logits, beta=BETA)


def chunked(
    student: Tensor, head: Tensor, teacher: Tensor, teacher_head: Tensor, loss: Callable[..., Tensor]
) -> Tensor:
    """Liger's, all tokens valid."""
    return loss(student, head, teacher, teacher_head, torch.zeros(len(student), dtype=torch.long))


def measure(loss: Loss, inputs: list[Tensor]) -> tuple[float, float]:
    """Processor and wall seconds of a forward and a backward."""
    for x in inputs:
        x.grad = None
    processor, wall = time.process_time(), time.perf_counter()
    loss(*inputs).backward()
    return time.process_time() - processor, time.perf_counter() - wall


def memory(loss: Loss, inputs: list[Tensor]) -> float:
    """MiB held at most beyond the start."""
    for x in inputs:
        x.grad = None
    gc.collect()
    held = most = 0
    with profile(profile_memory=True) as seen:
        loss(*inputs).backward()
    for event in seen.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 2**20


def contestants(inputs: list[Tensor], chunks: list[int]) -> dict[str, Loss]:
    """What can be imported, Liger in its fastest forms."""
    found: dict[str, Loss] = {"limbeck": limbeck}
    try:
        from trl.experimental.gkd.gkd_trainer import GKDTrainer

        found["TRL's function, full logits"] = partial(full_logits, jsd=GKDTrainer.generalized_jsd_loss)
    except ImportError as error:
        print(f"TRL cannot be imported ({error}): its formula is written out instead")
        found["TRL's formula, full logits"] = partial(full_logits, jsd=written_out)
    try:
        from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss
    except ImportError as error:
        print(f"Liger cannot be imported ({error}): it is left out")
        return found
    for compiled in (False, True):
        tried: list[tuple[float, int, Loss]] = []
        for size in chunks:
            form = LigerFusedLinearJSDLoss(0.0, 1.0, beta=BETA, compiled=compiled, chunk_size=size)
            one = partial(chunked, loss=form)
            try:
                measure(one, inputs)
            except Exception as error:  # torch.compile needs a C++ compiler
                print(f"Liger, compiled={compiled}, cannot run here: {type(error).__name__}")
                break
            tried.append((min(measure(one, inputs)[0] for _ in range(2)), size, one))
            print(
                f"Liger, chunks of {size:4}, {'compiled' if compiled else 'plain':8}: {tried[-1][0]:.3f} s", flush=True
            )
        if tried:
            _, size, one = min(tried, key=lambda each: each[0])
            found[f"Liger, chunks of {size}{', compiled' if compiled else ''}"] = one
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="measurements of each (default: 6)")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--words", type=int, default=49_152)
    parser.add_argument("--student", type=int, default=288, help="hidden size (default: 288)")
    parser.add_argument("--teacher", type=int, default=576, help="hidden size (default: 576)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--chunks", type=int, nargs="+", default=[64, 128, 256, 512], help="Liger's, to choose from")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    sizes = [(given.tokens, given.student), (given.words, given.student), (given.tokens, given.teacher)]
    inputs = [torch.randn(size) for size in [*sizes, (given.words, given.teacher)]]
    for x in (inputs[1], inputs[3]):
        x.mul_(2 * x.shape[1] ** -0.5)  # logits of a standard deviation of 2
    for x in inputs[:2]:
        x.requires_grad_()
    running = contestants(inputs, given.chunks)
    results = {}
    for name, loss in running.items():
        for x in inputs:
            x.grad = None
        value = loss(*inputs)
        value.backward()
        results[name] = (value.item(), [x.grad for x in inputs[:2]])
    ours = results["limbeck"]
    held = {name: memory(loss, inputs) for name, loss in running.items()}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
    for turn in range(given.rounds):
        for name in list(running)[:: 1 if turn % 2 else -1]:
            spent[name].append(measure(running[name], inputs))
    print(f"\n{given.tokens} x {given.words}, hidden {given.student} and {given.teacher}, threads: {given.threads}")
    print(
        f"{'':34}{'wall s':>8}{'ratio':>7}{'cpu s':>8}{'ratio':>7}{'extra MiB':>11}{'ours/it':>9}   largest difference"
    )
    base = [statistics.median(x) for x in zip(*spent["limbeck"])]
    for name in running:
        processor, wall = (statistics.median(x) for x in zip(*spent[name]))
        value, gradients = results[name]
        apart = [abs(value - ours[0])] + [
            float((a - b).abs().max() / b.abs().max()) for a, b in zip(gradients, ours[1])
        ]
        print(
            f"{name:34}{wall:8.3f}{wall / base[1]:7.2f}{processor:8.3f}{processor / base[0]:7.2f}{held[name]:11.1f}"
            f"{held['limbeck'] / held[name]:9.2f}   {max(apart):.1e}"
        )


if __name__ == "__main__":
    main()
