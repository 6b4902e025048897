"""A run that was killed, or whose checkpoints are damaged, ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from limbeck.core import checkpoint
from limbeck.core.checkpoint import Checkpoint
from limbeck.run import training
from limbeck.run.folder import FitId, Log, RunFolder
from limbeck.run.outcome import Outcome
from limbeck.run.pipeline import run
from limbeck.run.progress import Show
from limbeck.run.report import read_outcome
from limbeck.run.resolve import resolve
from limbeck.run.spec import make_spec

Settings = dict[str, Any]
ROOT = Path(__file__).parents[2]


def go(settings: Settings, out: Path) -> Outcome:
    task = resolve(make_spec(settings))
    return run(task, RunFolder(out), Show(quiet=True), check=lambda _: [], cache=False)


def weights(out: Path) -> dict[str, list[float]]:
    return {name: held.flatten().tolist() for name, held in load_file(out / "student" / "model.safetensors").items()}


class Killed(BaseException):
    """Stands for a kill: nothing catches it, nothing is cleaned up after it."""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return {**settings, "steps": 12, "eval_every": 4, "checkpoint_seconds": 1e-9}  # a checkpoint every step


def killed_at(monkeypatch: pytest.MonkeyPatch, settings: Settings, out: Path, saves: int) -> None:
    """Run until so many checkpoints are written."""
    real, left = Checkpoint.save, [saves]

    def save(self: Checkpoint, *arguments: Any, **named: Any) -> None:
        real(self, *arguments, **named)
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "save", save)
        with pytest.raises(Killed):
            go(settings, out)


@pytest.mark.parametrize("method", ["kd", "bd_kd", "ban", "meal_v2"])
@pytest.mark.parametrize("saves", [1, 11, 12, 13, 22])
def test_a_killed_run_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path, method: str, saves: int
) -> None:
    settings = {**settings, "method": method, "augment": "flip"}
    whole = go(settings, tmp_path / "whole")
    killed_at(monkeypatch, settings, tmp_path / "killed", saves)
    again = go(settings, tmp_path / "killed")
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert again.distilled[0].evaluation == whole.distilled[0].evaluation
    assert again.distilled[0].curve.accuracy == whole.distilled[0].curve.accuracy
    assert again.distilled[0].curve.steps == whole.distilled[0].curve.steps
    for arm in ("control", method):
        killed, straight = (
            [(r["fit"], r["step"], r["logs"]) for r in Log(tmp_path / name / "metrics.jsonl").rows if r["arm"] == arm]
            for name in ("killed", "whole")
        )
        assert killed == straight, "no step is logged twice, none is missing"


def test_what_is_finished_is_not_done_again(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path
) -> None:
    settings = {**settings, "seeds": 2}
    killed_at(monkeypatch, settings, tmp_path / "run", 30)  # in the method of the second seed
    arms = {path.name for path in (tmp_path / "run" / "arms").iterdir()}
    assert arms == {"seed-0-control.json", "seed-0-kd.json"}
    steps: list[FitId] = []
    real = training.Training.fit

    def fit(self: training.Training, *arguments: Any, **named: Any) -> None:
        real(self, *arguments, **named)
        steps.append(self.fits[-1])

    monkeypatch.setattr(training.Training, "fit", fit)
    outcome = go(settings, tmp_path / "run")
    assert [(which.seed, which.arm) for which in steps] == [(1, "kd"), (1, "control")]
    assert outcome.gain == go(settings, tmp_path / "whole").gain


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "empty"])
@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "sha256"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_used(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path, file: str, damage: str
) -> None:
    killed_at(monkeypatch, settings, tmp_path / "run", 6)
    held = sorted((tmp_path / "run" / "checkpoints" / "seed-0" / "kd" / "student").iterdir())
    assert [path.name for path in held] == ["step-00000005", "step-00000006"]
    path = held[-1] / file
    content = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(content[:-5])
        case "flipped":
            path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        case "gone":
            path.unlink()
        case _:
            path.write_bytes(b"")
    with pytest.warns(UserWarning, match="step-00000006 is damaged"):
        go(settings, tmp_path / "run")
    go(settings, tmp_path / "whole")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_torn_line_of_the_log_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path
) -> None:
    killed_at(monkeypatch, settings, tmp_path / "run", 18)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"seed": 0, "arm": "kd", "fi')
    outcome = go(settings, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [*range(1, 13), *range(1, 13)]
    assert outcome.distilled[0].curve.steps == [4, 8, 12]


@pytest.mark.parametrize(
    "file", ["environment.json", "preflight.json", "run.yaml", "arms/seed-0-control.json", "student", "report.json"]
)
def test_a_run_that_was_killed_in_the_middle_of_a_file_goes_on(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path, file: str
) -> None:
    def sync(path: Path) -> None:
        if path.name.startswith(f".{Path(file).name}.part-"):
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_sync", sync)
        with pytest.raises(Killed):
            go(settings, tmp_path)
    assert not (tmp_path / file).exists() and list(tmp_path.rglob(".*.part-*")), "it died there"
    go(settings, tmp_path)
    assert not list(tmp_path.rglob(".*.part-*")), "what it left unfinished is gone"


def test_a_damaged_folder_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path
) -> None:
    from limbeck.errors import InputError

    killed_at(monkeypatch, settings, tmp_path / "run", 18)
    (tmp_path / "run" / "preflight.json").write_text("[")
    with pytest.raises(InputError, match="is damaged"):
        go(settings, tmp_path / "run")


def test_kill_9_through_the_command_line(settings: Settings, teacher: str, tmp_path: Path) -> None:
    words = ["kd", "--student", "mlp-64x2", "--teacher", teacher, "--data", "digits", "--steps", "600", "--seeds", "1",
             "--checkpoint-seconds", "0.1", "--no-preflight", "--no-control-cache"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(*command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "limbeck", *command], cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    process = start("run", *words, "--out", "killed")
    state = tmp_path / "killed" / "checkpoints" / "seed-0" / "kd" / "student"
    deadline = time.monotonic() + 200
    while not list(state.glob("step-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "killed" / "student").exists()
    done = int(max(state.glob("step-*")).name.removeprefix("step-"))
    assert 0 < done < 600
    resumed, whole = start("resume", "killed", "--no-control-cache"), start("run", *words, "--out", "whole")
    for process in (resumed, whole):
        _, said = process.communicate(timeout=280)
        assert process.returncode == 0, said
    assert (tmp_path / "killed/student/model.safetensors").read_bytes() == (
        tmp_path / "whole/student/model.safetensors"
    ).read_bytes()
    assert read_outcome(tmp_path / "killed").gain == read_outcome(tmp_path / "whole").gain
    steps = [(r["arm"], r["step"]) for r in Log(tmp_path / "killed" / "metrics.jsonl").rows]
    assert len(steps) == len(set(steps)) == 400


def test_no_warning_without_damage(monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path) -> None:
    killed_at(monkeypatch, settings, tmp_path / "run", 18)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        go(settings, tmp_path / "run")
