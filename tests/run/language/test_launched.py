"""A language run that a launcher starts in two processes: one preflight, one report, the student of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from limbeck.models.load_lm import load_causal_lm, save_causal_lm
from limbeck.run.folder import Log, RunFolder
from limbeck.run.pipeline import run
from limbeck.run.progress import Show
from limbeck.run.report import read_outcome
from limbeck.run.resolve import resolve
from limbeck.run.spec import make_spec
from tests.worlds import language_world

ROOT = Path(__file__).parents[3]


def uneven(path: Path, rows: int) -> str:
    """Completions of 1 to 19 bytes."""
    said = [{"prompt": f"{k:02d}=", "completion": "abcdefg"[k % 7] * (1 + k * k % 19)} for k in range(rows)]
    path.write_text("\n".join(map(json.dumps, said)))
    return str(path)


def test_two_processes_are_one(tmp_path: Path) -> None:
    """With the preflight, in which the first process runs steps of the method while the other waits."""
    save_causal_lm(language_world().teachers[0], tmp_path / "teacher")
    settings = {
        "method": "gkd", "student": "llama-16x1", "teacher": str(tmp_path / "teacher"), "context": 32, "steps": 6,
        "data": f"{uneven(tmp_path / 'train.jsonl', 32)},{uneven(tmp_path / 'test.jsonl', 9)}", "batch": 8,
        "seeds": 1, "lr": 0.01, "eval_every": 3, "pack": False, "device": "cpu",
    }  # fmt: skip
    flags = [w for name, v in settings.items() if name != "method" for w in (f"--{name.replace('_', '-')}", str(v))]
    flags[flags.index("--pack") + 1] = "no"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "limbeck"]
    done = subprocess.run(
        [*launcher, "run", "gkd", *flags, "--method.lmbda", "0", "--force", "--no-control-cache", "--out", "two"],
        cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report ") == 1 and done.stderr.count("zero at equality") == 1
    one = run(
        resolve(make_spec({**settings, "values": {"lmbda": 0}})), RunFolder(tmp_path / "one"), Show(quiet=True),
        check=lambda _: [], cache=False,
    )  # fmt: skip
    two = read_outcome(tmp_path / "two")
    students = [load_causal_lm(str(tmp_path / name / "student")).state_dict() for name in ("one", "two")]
    torch.testing.assert_close(students[0], students[1], rtol=1e-4, atol=1e-4)
    for ours, theirs in ((one.distilled[0], two.distilled[0]), (one.control[0], two.control[0])):
        assert theirs.curve.steps == ours.curve.steps
        assert theirs.curve.loss == pytest.approx(ours.curve.loss, rel=1e-4)
    rows = Log(tmp_path / "two" / "metrics.jsonl").rows
    assert [(row["arm"], row["step"]) for row in rows] == [(arm, s) for arm in ("gkd", "control") for s in range(1, 7)]
