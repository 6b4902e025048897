"""Kill runs with SIGKILL at random moments, resume them, and compare the final weights with an undisturbed run's.

    python benchmarks/resume.py --trials 20

Real processes, three kinds of procedure: one player (kd), two players (bd_kd), generations (ban). Each trial is killed
one to three times, at moments drawn evenly over the steps that are left, counted by the run's log, so that a busy
machine shifts none of them; one in ten falls after the last step. The processes are forked from one that has imported
everything, so that the time goes into runs instead of imports.
Expected: every final tensor, of the student and of every training's last checkpoint (with optimisers, random state and
the place in the data), is equal bit for bit, in 20 of 20 trials of each kind.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch.optim import AdamW

from limbeck.cli import main as limbeck
from limbeck.core.fit import fit
from limbeck.data.batches import Batches
from limbeck.data.load import load_data
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.load import load_classifier, save_classifier

KINDS = {"kd": "one player", "bd_kd": "two players", "ban": "generations"}
FORKS = multiprocessing.get_context("forkserver")


def work(words: list[str]) -> None:
    """A process of a run: one thread, because sums in another order are other numbers."""
    torch.set_num_threads(1)
    sys.exit(limbeck(words))


def start(method: str, teacher: Path, steps: int, out: Path) -> BaseProcess:
    """The same command begins a run and goes on with it."""
    words = ["run", method, "--teacher", str(teacher), "--student", "cnn-8-16", "--data", "digits", "--augment", "crop",
             "--steps", str(steps), "--seeds", "1", "--no-control-cache", "--no-preflight", "--quiet",
             "--checkpoint-seconds", "0.05", "--out", str(out)]  # fmt: skip
    process = FORKS.Process(target=work, args=(words,))
    process.start()
    return process


def logged(out: Path) -> int:
    """How far a run is: bytes of its log, which has a row for every step."""
    log = out / "metrics.jsonl"
    return log.stat().st_size if log.exists() else 0


def finish(process: BaseProcess) -> None:
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"a run ended with status {process.exitcode}")


def final(out: Path) -> dict[str, bytes]:
    """The student and the last checkpoint of every training, byte by byte."""
    files = [out / "student" / "model.safetensors"]
    for training in sorted((out / "checkpoints").glob("*/*/*")):
        last = max(training.glob("step-*"))
        files += [last / "tensors.safetensors", last / "state.json"]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def where(out: Path) -> str:
    """The newest checkpoint of a killed run."""
    steps = sorted((out / "checkpoints").glob("*/*/*/step-*"), key=lambda path: path.stat().st_mtime_ns)
    return "/".join(steps[-1].parts[-3:]) if steps else "before the first checkpoint"


def trial(number: int, method: str, teacher: Path, steps: int, scratch: Path) -> tuple[list[str], list[str]]:
    """Kill, resume, compare: the moments of the kills, and the files that differ."""
    drawn, out, moments = random.Random(f"{method} {number}"), scratch / f"{method}-{number}", list[str]()
    whole = logged(scratch / f"{method}-whole")
    for _ in range(drawn.choice((1, 1, 2, 3))):
        moment = drawn.uniform(logged(out) / whole, 1.1)
        process = start(method, teacher, steps, out)
        while process.is_alive() and logged(out) < min(moment, 0.99) * whole:
            time.sleep(0.001)
        process.join(drawn.uniform(0, 0.02 if moment < 1 else 1))
        if process.is_alive():
            process.kill()
            process.join()
            moments.append(where(out))
    finish(start(method, teacher, steps, out))
    mine, straight = final(out), final(scratch / f"{method}-whole")
    return moments, sorted(name for name in mine.keys() | straight.keys() if mine.get(name) != straight.get(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--methods", nargs="+", default=list(KINDS))
    given = parser.parse_args()
    FORKS.set_forkserver_preload(
        [
            "__main__",
            "limbeck.run.pipeline",
            "limbeck.run.commands",
            "limbeck.run.view",
            "kornia.augmentation",
            "sklearn.datasets",
        ]
    )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        scratch, digits = Path(folder), load_data("digits").train
        network = load_classifier("mlp-64x2", shape=digits.shape, classes=digits.classes)
        fit(Supervised(network), Batches(digits, 64), partial(AdamW, lr=3e-3), steps=150)
        save_classifier(network, scratch / "teacher")
        failed = 0
        for method in given.methods:
            finish(start(method, scratch / "teacher", given.steps, scratch / f"{method}-whole"))
            one = partial(trial, method=method, teacher=scratch / "teacher", steps=given.steps, scratch=scratch)
            equal = kills = 0
            for number, (moments, other) in enumerate(pool.map(one, range(given.trials))):
                shown = ", ".join(moments) or "never: it was faster"
                said = f"DIFFERENT: {', '.join(other)}" if other else "equal"
                print(f"{method} trial {number}: killed at {shown}: {said}", flush=True)
                equal, kills = equal + (not other), kills + len(moments)
            print(
                f"{method} ({KINDS.get(method, '')}): bit-identical in {equal} of {given.trials} trials, {kills} kills"
            )
            failed += given.trials - equal
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
