"""A whole step of distilling a language model, side by side in one process: limbeck and TRL's GKDTrainer.

    pip install --no-deps --target peers trl
    python benchmarks/language_step.py MODEL_FOLDER wikitext2_valid.txt --peers peers [--rounds 4]

The teacher is the model in the folder, the student six of its blocks, evenly spaced; generalised JSD with beta 0.5 on
the text itself (lmbda 0), 4 rows of 256 tokens, AdamW, float32 on a processor, no gradient checkpointing. limbeck goes
through ``iterate``, with the teacher in memory and from its store (``hidden``, 8 bits). Of TRL its ``training_step``
and the optimiser's step are called, which is what a step of ``train()`` does, without the trainer's loop around them.
All students begin with the same weights and see the same rows in the same order: the first losses and gradients must
be the same.

The contestants take turns, A B C C B A, after a step each to warm up; ratios are of medians. On a machine that others
use, processor time is the fairer ratio. Memory is what tensors hold at most within a step beyond the weights of both
models: activations, gradients, the optimiser's state.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler import profile

from limbeck.core.fit import iterate
from limbeck.data.signals import StoredTeacher, capture, open_store
from limbeck.data.text import Span, TextSet
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import TokenBatches, Tokens
from limbeck.methods.language.gkd import GKD
from limbeck.models.causal_lm import CausalLM
from limbeck.models.load_lm import load_causal_lm
from limbeck.models.surgery import spaced, truncate

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
BATCH, CONTEXT, BLOCKS, BETA = 4, 256, 6, 0.5
LIVE, STORED, TRL = "limbeck, live teacher", "limbeck, from the store", "TRL's GKDTrainer"
STEPS = 10**6  # more than anyone takes here
ADAMW = partial(torch.optim.AdamW, lr=1e-5, fused=True)  # fused is what the trainer would choose
Step = Callable[[], float]


def limbeck(student: CausalLM, teacher: nn.Module, batches: list[Tokens]) -> tuple[Step, torch.optim.Optimizer]:
    """A step of ``iterate``; gives the loss."""
    optimizer = ADAMW(student.parameters())
    records = iterate(GKD(student, teacher, beta=BETA, lmbda=0.0), batches, optimizer, steps=STEPS)
    return lambda: next(records).floats()["loss"], optimizer


def trl(student: CausalLM, teacher: CausalLM, batches: list[Tokens]) -> tuple[Step, torch.optim.Optimizer]:
    """A step of the trainer; gives the loss."""
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    optimizer = ADAMW(student.net.parameters())
    config = GKDConfig(
        tempfile.mkdtemp(), beta=BETA, lmbda=0.0, temperature=1.0, per_device_train_batch_size=BATCH, use_cpu=True,
        gradient_checkpointing=False, bf16=False, report_to="none", max_length=CONTEXT,
    )  # fmt: skip
    nothing = Dataset.from_list([{"messages": [{"role": "user", "content": ""}]}])  # batches are handed to the step
    trainer = GKDTrainer(
        student.net, teacher.net, config, train_dataset=nothing, processing_class=student.tokenizer,
        optimizers=(optimizer, None),
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1  # what ``train()`` would have set
    assert not student.net.is_gradient_checkpointing
    order = cycle(batches)

    def step() -> float:
        batch = next(order)
        mask = (batch.segment > 0).long()
        inputs: dict[str, Any] = {"input_ids": batch.x, "attention_mask": mask, "labels": batch.x.clone()}
        trainer.model.train()
        loss = trainer.training_step(trainer.model, inputs)
        optimizer.step()
        trainer.model.zero_grad()
        return float(loss)

    return step, optimizer


def gradients_apart(a: torch.optim.Optimizer, b: torch.optim.Optimizer) -> float:
    """|a - b| / |b| of the gradients of the first step, which AdamW's first moments then are, but for a factor."""
    ours, theirs = (torch.cat([x.state[p]["exp_avg"].flatten() for p in x.param_groups[0]["params"]]) for x in (a, b))
    return float((ours - theirs).norm() / theirs.norm())


def timed(step: Step) -> tuple[float, float]:
    """Processor and wall seconds."""
    processor, wall = time.process_time(), time.perf_counter()
    step()
    return time.process_time() - processor, time.perf_counter() - wall


def memory(step: Step, optimizer: torch.optim.Optimizer) -> float:
    """MiB held at most within a step, the optimiser's state included."""
    gc.collect()
    kept = sum(x.nbytes for held in optimizer.state.values() for x in held.values() if isinstance(x, torch.Tensor))
    held = most = 0
    with profile(profile_memory=True) as seen:
        step()
    for event in seen.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return (kept + most) / 2**20


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder of a causal language model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--peers", help="the folder that trl was installed into")
    parser.add_argument("--rounds", type=int, default=4, help="steps of each (default: 4)")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if given.peers:
        sys.path.append(given.peers)
    torch.set_num_threads(given.threads)
    teacher = load_causal_lm(given.model)
    said = given.text.read_text(encoding="utf-8")[: 16 * BATCH * CONTEXT]  # enough for two batches
    rows = tokenise(TextSet(((Span(said, close=False),),)), teacher.tokenizer, CONTEXT)
    data = rows.subset(range(2 * BATCH))
    batches = list(TokenBatches(data, BATCH, shuffle=False))
    assert all(bool((batch.y[:, :-1] == batch.x[:, 1:]).all()) for batch in batches)  # TRL's shift of TRL's labels
    tokens = batches[0].x.numel()
    with tempfile.TemporaryDirectory() as folder:
        capture(teacher, data, folder, kind="hidden", bits=8, batch=BATCH)
        stored = StoredTeacher(open_store(folder))
        student = truncate(teacher, spaced(teacher.depth, BLOCKS))
        running = {
            LIVE: limbeck(truncate(teacher, spaced(teacher.depth, BLOCKS)), teacher, batches),
            STORED: limbeck(truncate(teacher, spaced(teacher.depth, BLOCKS)), stored, batches),
            TRL: trl(student, teacher, batches),
        }
        first = {name: step() for name, (step, _) in running.items()}
        print("first losses: " + ", ".join(f"{name} {loss:.6f}" for name, loss in first.items()), flush=True)
        loss = abs(first[LIVE] - first[TRL])
        gradient = gradients_apart(running[LIVE][1], running[TRL][1])
        print(f"limbeck and TRL differ by {loss:.1e} in the loss, relatively by {gradient:.1e} in the gradient")
        assert loss < 1e-4 and gradient < 1e-3
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
        for turn in range(given.rounds):
            for name in list(running)[:: 1 if turn % 2 else -1]:
                spent[name].append(timed(running[name][0]))
                print(f"  {name:26}{spent[name][-1][0]:8.2f} cpu s{spent[name][-1][1]:8.2f} wall s", flush=True)
        held = {name: memory(*one) for name, one in running.items()}
    weights = sum(p.nbytes for model in (teacher, student) for p in model.parameters()) / 2**20
    print(f"weights of both models: {weights:.0f} MiB")
    print(f"\n{BATCH} x {CONTEXT} tokens, {teacher.depth} -> {BLOCKS} blocks, {given.threads} threads")
    print(
        f"{'':26}{'cpu s':>8}{'wall s':>8}{'tokens/cpu s':>14}{'speed/TRL':>11}{'extra MiB':>11}{'/TRL':>7}   targets"
    )
    targets = {LIVE: "1.15, 0.50", STORED: "2.00"}
    base, most = statistics.median(p for p, _ in spent[TRL]), held[TRL]
    for name in running:
        processor, wall = (statistics.median(x) for x in zip(*spent[name], strict=True))
        print(
            f"{name:26}{processor:8.2f}{wall:8.2f}{tokens / processor:14.0f}{base / processor:11.2f}{held[name]:11.0f}"
            f"{held[name] / most:7.2f}   {targets.get(name, '')}"
        )


if __name__ == "__main__":
    main()
