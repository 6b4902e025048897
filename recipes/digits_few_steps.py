"""The digits' fifty-step teacher in two steps: progressive distillation and SFD, each with its control and its report.

    python recipes/digits_diffusion.py           # makes the teacher first
    python recipes/digits_few_steps.py

Progressive distillation halves 32 steps four times; SFD's two Euler steps follow the teacher's states at their ends.
Both begin as the teacher and need no judge beside it. The control is the teacher's copy, trained on without it and
sampled in two steps too. A killed recipe goes on where it was.

Measured on one seed, Frechet distance in two steps: 0.356 with progressive distillation, by the command below, its
control 2.28; 0.346 with SFD, from Python with the same settings and judge. The teacher is at 0.282 in fifty steps, 2.29
in two; real images at 0.150. About seven and fourteen minutes of processor time, tests on the way included. Beyond 1.3
times the teacher: MLCM with second-order trajectories (``solver``: dpm2m, sixteen steps, segments 4 and 2) is at 0.379.
"""

from __future__ import annotations

import sys
from pathlib import Path

from limbeck.cli import main
from limbeck.run.report import read_outcome
from limbeck.run.words import sentence

TEACHER = Path("runs/digits-teacher")
COMMON = f"--teacher {TEACHER} --data digits --batch 64 --seeds 1"
RUNS = {
    "progressive_distillation": "--steps 400 --lr 3e-4 --method.start 32 --method.end 2",
    "sfd": "--steps 1200 --lr 5e-4 --method.steps 2 --method.finer 6",
}

if __name__ == "__main__":
    if not TEACHER.is_dir():
        sys.exit("run recipes/digits_diffusion.py first: it makes the teacher")
    for key, flags in RUNS.items():
        out = Path(f"runs/digits-{key}")
        command = f"run {key} {COMMON} {flags} --out {out}".split()
        if status := main(["resume", str(out)] if out.joinpath("run.yaml").is_file() else command):
            sys.exit(status)
        print(f"{out}: {sentence(read_outcome(out))}", flush=True)
