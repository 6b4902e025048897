"""Kill runs with SIGKILL at random moments, resume them, and compare the final weights with an undisturbed run's.

    python benchmarks/resume.py --trials 20

Real processes, three kinds of procedure: one player (kd), two players (bd_kd), generations (ban). Each trial is killed
one to three times, at moments drawn evenly from what the undisturbed run took from its first file to its last.
Expected: every final tensor, of the student, of every training's last checkpoint (optimisers, random state and place in
the data with it), is equal bit for bit, in 20 of 20 trials of each kind.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from torch.optim import AdamW

from limbeck.core.fit import fit
from limbeck.data.batches import Batches
from limbeck.data.load import load_data
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.load import load_classifier, save_classifier

ROOT = Path(__file__).parents[1]
KINDS = {"kd": "one player", "bd_kd": "two players", "ban": "generations"}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(method: str, teacher: Path, steps: int, out: Path) -> subprocess.Popen[str]:
    """The same command begins a run and goes on with it."""
    words = [sys.executable, "-m", "limbeck", "run", method, "--teacher", str(teacher), "--student", "cnn-8-16",
             "--data", "digits", "--augment", "crop", "--steps", str(steps), "--seeds", "1", "--no-control-cache",
             "--no-preflight", "--checkpoint-seconds", "0.1", "--quiet", "--out", str(out)]  # fmt: skip
    return subprocess.Popen(words, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def begun(process: subprocess.Popen[str], out: Path, before: int) -> bool:
    """Wait until the process has taken the folder, which touches its lock; false when it ended instead."""
    while process.poll() is None:
        if taken(out) != before:
            return True
        time.sleep(0.005)
    return False


def taken(out: Path) -> int:
    """When the folder was last taken."""
    lock = out / ".lock"
    return lock.stat().st_mtime_ns if lock.exists() else 0


def finish(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate()
    if process.returncode != 0:
        raise SystemExit(said)


def final(out: Path) -> dict[str, bytes]:
    """The student and the last checkpoint of every training, byte by byte."""
    files = [out / "student" / "model.safetensors"]
    for fit_folder in sorted((out / "checkpoints").glob("*/*/*")):
        last = max(fit_folder.glob("step-*"))
        files += [last / "tensors.safetensors", last / "state.json"]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def trial(number: int, method: str, teacher: Path, steps: int, scratch: Path, seconds: float) -> tuple[list[str], bool]:
    """Kill, resume, compare: the moments of the kills, and whether all is equal."""
    drawn, out, moments = random.Random(f"{method} {number}"), scratch / f"{method}-{number}", list[str]()
    for _ in range(drawn.choice((1, 1, 2, 3))):
        before = taken(out)
        process = start(method, teacher, steps, out)
        if begun(process, out, before):
            time.sleep(drawn.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        reached = [max(f.glob("step-*"), default=None) for f in sorted((out / "checkpoints").glob("*/*/*"))]
        moments.append(
            "before the first checkpoint" if not reached or reached[-1] is None
            else f"{reached[-1].parent.parent.name}/{reached[-1].parent.name} {reached[-1].name}"
        )  # fmt: skip
    finish(start(method, teacher, steps, out))
    return moments, final(out) == final(scratch / f"{method}-whole")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--methods", nargs="+", default=list(KINDS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        scratch, digits = Path(folder), load_data("digits").train
        network = load_classifier("mlp-64x2", shape=digits.shape, classes=digits.classes)
        fit(Supervised(network), Batches(digits, 64), partial(AdamW, lr=3e-3), steps=150)
        save_classifier(network, scratch / "teacher")
        failed = 0
        for method in given.methods:
            whole = scratch / f"{method}-whole"
            process = start(method, scratch / "teacher", given.steps, whole)
            begun(process, whole, 0)
            first = time.monotonic()
            finish(process)
            seconds = time.monotonic() - first
            one = partial(
                trial, method=method, teacher=scratch / "teacher", steps=given.steps, scratch=scratch, seconds=seconds
            )
            equal = 0
            for number, (moments, same) in enumerate(pool.map(one, range(given.trials))):
                print(f"{method} trial {number}: killed at {', '.join(moments)}: {'equal' if same else 'DIFFERENT'}")
                equal += same
            print(f"{method} ({KINDS.get(method, '')}): bit-identical in {equal} of {given.trials} trials", flush=True)
            failed += given.trials - equal
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
